"""The spans of the services, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Tracer, format_span_id, format_trace_id

from gatehouse.runtime.telemetry import ExceptionTextFilter
from gatehouse_testbed.bed.evidence import Evidence
from gatehouse_testbed.bed.records import RecordedSpan


class _Recorder(SpanExporter):
    def __init__(self, seen: Evidence) -> None:
        self._seen = seen

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._seen.add_span(_record(span), span.start_time or 0)
        return SpanExportResult.SUCCESS


def make_tracer(seen: Evidence) -> Tracer:
    """Return a tracer whose spans are added to `seen` when they end."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ExceptionTextFilter(_Recorder(seen))))
    return provider.get_tracer("gatehouse")


def _record(span: ReadableSpan) -> RecordedSpan:
    context = span.get_span_context()
    assert context is not None  # noqa: S101 - a span that has ended has one
    return RecordedSpan(
        name=span.name,
        kind=span.kind.name.lower(),
        status=span.status.status_code.name.lower(),
        attributes=dict(span.attributes or {}),
        trace_id=format_trace_id(context.trace_id),
        span_id=format_span_id(context.span_id),
        parent_id="" if span.parent is None else format_span_id(span.parent.span_id),
        duration_ms=((span.end_time or 0) - (span.start_time or 0)) / 1e6,
    )
