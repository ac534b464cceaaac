"""From spans to the bytes of OTLP (opentelemetry.proto.trace.v1), and the exporter that sends them.

The exporter's own encoder makes a message of every attribute and copies it. Here the common span is written
as the bytes that it will be; any other is left to that encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanKind, StatusCode

_logger = logging.getLogger(__name__)
# Fields of opentelemetry.proto.trace.v1.Span, as their tags on the wire: number << 3 | wire type.
_TRACE_ID, _SPAN_ID, _PARENT_SPAN_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"  # 1, 2, 4, with their lengths
_NAME, _KIND, _ATTRIBUTES = b"\x2a", b"\x30", b"\x4a"  # 5, 6, 9
_TIMES = Struct("<cQcQ").pack  # 7 and 8, fixed64
_START, _END = b"\x39", b"\x41"
_FLAGS = Struct("<2sI").pack  # 16, fixed32
_FLAGS_TAG = b"\x85\x01"
_STATUS = {
    StatusCode.UNSET: b"\x7a\x00",
    StatusCode.OK: b"\x7a\x02\x18\x01",
    StatusCode.ERROR: b"\x7a\x02\x18\x02",
}
# Of KeyValue, AnyValue and what is around the spans: field 1 and field 2, each with a length.
_FIRST, _SECOND = b"\x0a", b"\x12"
_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_SEVEN_BITS = 0x7F
_SIZES = [bytes((size,)) for size in range(_SEVEN_BITS + 1)]


def _sized(tag: bytes, content: bytes) -> bytes:
    """Writes a field that has a length (protobuf encoding, length-delimited records)."""
    left = len(content)
    if left <= _SEVEN_BITS:
        return tag + _SIZES[left] + content
    size = bytearray()
    while left > _SEVEN_BITS:
        size.append(left & _SEVEN_BITS | 0x80)
        left >>= 7
    size.append(left)
    return tag + size + content


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # half of a surrogate pair must not cost the whole batch


def _attribute(key: str, value: str) -> bytes:
    return _sized(_ATTRIBUTES, _sized(_FIRST, _utf8(key)) + _sized(_SECOND, _sized(_FIRST, _utf8(value))))


# Most keys and values are the same in all spans; ids, which are not, soon leave. Long ones are not kept.
_common_attribute = lru_cache(maxsize=1024)(_attribute)
_COMMON_CHARS = 2048


@lru_cache(maxsize=1024)
def _named(name: str, kind: SpanKind) -> bytes:
    return _sized(_NAME, _utf8(name)) + _KIND + _SIZES[kind.value + 1]  # OTLP has a 0 that says unspecified


def _encode(span: ReadableSpan) -> bytes:
    """Writes a span as field 2 of ScopeSpans."""
    ids, parent, status = span.get_span_context(), span.parent, span.status
    attributes = span.attributes or {}
    texts = [(key, value) for key, value in attributes.items() if isinstance(value, str)]
    if (
        ids is None
        or status.description
        or ids.trace_state
        or span.events
        or span.links
        or span.start_time is None
        or span.end_time is None
        or len(texts) < len(attributes)
    ):
        (resource_spans,) = trace_encoder.encode_spans([span]).resource_spans
        return _sized(_SECOND, resource_spans.scope_spans[0].spans[0].SerializeToString())
    parts = [
        _TRACE_ID,
        ids.trace_id.to_bytes(16, "big"),
        _SPAN_ID,
        ids.span_id.to_bytes(8, "big"),
        b"" if parent is None else _PARENT_SPAN_ID + parent.span_id.to_bytes(8, "big"),
        _named(span.name, span.kind),
        _TIMES(_START, span.start_time, _END, span.end_time),
        *[
            _common_attribute(key, value) if len(value) <= _COMMON_CHARS else _attribute(key, value)
            for key, value in texts
        ],
        _STATUS[status.status_code],
        _FLAGS(_FLAGS_TAG, _REMOTE if parent is not None and parent.is_remote else _LOCAL),
    ]
    return _sized(_SECOND, b"".join(parts))


def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Makes the request that exports spans; one that cannot be encoded is left out, and told by its name.

    Args:
        spans: Spans of one resource and one scope.
    """
    if not spans:
        return ExportTraceServiceRequest()
    first = spans[0]
    blank = ReadableSpan(
        "", INVALID_SPAN_CONTEXT, resource=first.resource, instrumentation_scope=first.instrumentation_scope
    )
    request: ExportTraceServiceRequest = trace_encoder.encode_spans([blank])
    around = request.resource_spans[0].scope_spans[0]
    del around.spans[:]
    encoded = []
    for span in spans:
        try:
            encoded.append(_encode(span))
        except Exception as error:  # noqa: BLE001 - one span must not cost the others of its batch
            kind = type(error).__qualname__  # its text may hold a value
            _logger.error("a span cannot be sent: %s: %s", span.name, kind)  # noqa: TRY400 - likewise
    around.MergeFromString(b"".join(encoded))
    return request


class SpanExporter(OTLPSpanExporter):
    """Sends the spans of one Tracer by OTLP over gRPC; see OTLPSpanExporter."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode_spans(data)
