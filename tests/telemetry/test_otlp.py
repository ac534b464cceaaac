"""What is sent of a span is what the exporter's own encoder would send, to the letter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from gatehouse.telemetry import Tracer
from gatehouse.telemetry.otlp import SpanExporter, encode_spans
from tests.telemetry.test_spans import Kept

RESOURCE = Resource({"service.name": "test", "service.namespace": "gatehouse"})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.just("long" * 1000)
VALUE = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
ATTRIBUTES = st.dictionaries(
    TEXT.filter(bool), st.one_of(VALUE, st.lists(TEXT, max_size=3).map(tuple)), max_size=5
)
IDS = st.builds(
    lambda trace_id, span_id, is_remote, state: SpanContext(
        trace_id,
        span_id,
        is_remote=is_remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState([("vendor", "1")]) if state else TraceState(),
    ),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.booleans(),
)


TIMES = st.integers(0, 2**63)
RECIPES = st.fixed_dictionaries(
    {
        "name": TEXT,
        "kind": st.sampled_from(SpanKind),
        "parent": st.none() | IDS,
        "attributes": ATTRIBUTES,
        "links": st.lists(IDS, max_size=1),
        "events": st.lists(st.tuples(TEXT, ATTRIBUTES, TIMES), max_size=1),
        "times": st.tuples(TIMES, TIMES),
        "status": st.sampled_from([(StatusCode.UNSET, None), (StatusCode.OK, None), (StatusCode.ERROR, None)])
        | st.tuples(st.just(StatusCode.ERROR), TEXT),
    }
)


def make(recipe: dict[str, Any]) -> ReadableSpan:
    """A span of any kind that the API can make."""
    kept, context, parent = Kept(), Context(), recipe["parent"]
    if parent is not None:
        context = set_span_in_context(NonRecordingSpan(parent), context)
    links = [Link(ids, {"a": "b"}) for ids in recipe["links"]]
    begin, end = recipe["times"]
    span = Tracer(kept, RESOURCE, "test").start_span(
        recipe["name"], context, recipe["kind"], recipe["attributes"], links, begin
    )
    for event in recipe["events"]:
        span.add_event(*event)
    span.set_status(*recipe["status"])
    span.end(end)
    (found,) = kept.spans
    return found


@given(st.lists(RECIPES, max_size=4))
def test_spans_are_encoded_as_by_the_exporter(recipes: list[dict[str, Any]]) -> None:
    found = [make(recipe) for recipe in recipes]
    assert encode_spans(found) == trace_encoder.encode_spans(found)


class Touchy(ReadableSpan):
    """A span that the exporter's encoder cannot read."""

    @property
    def dropped_attributes(self) -> int:
        raise AssertionError("read by the exporter's encoder")


def test_the_span_of_a_call_is_encoded_without_the_exporter_s_encoder() -> None:
    """Or the quick way would be dead, and nobody would see."""
    kept = Kept()
    span = Tracer(kept, RESOURCE, "test").start_span("users.v1/Get", Context(), SpanKind.SERVER)
    span.set_attributes({"rpc.system.name": "grpc", "rpc.response.status_code": "OK"})
    span.end()
    (first,) = kept.spans
    touchy = Touchy(
        first.name, first.context, None, RESOURCE, first.attributes, kind=first.kind, start_time=1, end_time=2
    )
    with pytest.raises(AssertionError, match="by the exporter's"):
        trace_encoder.encode_spans([touchy])
    (resource,) = encode_spans([first, touchy]).resource_spans
    assert [span.name for span in resource.scope_spans[0].spans] == ["users.v1/Get"] * 2


def test_half_of_a_surrogate_pair_costs_no_other_span() -> None:
    kept = Kept()
    tracer = Tracer(kept, RESOURCE, "test")
    for name, value in (("\ud800", "good"), ("work", "\ud800")):
        tracer.start_span(name, Context(), attributes={"a": value}).end()
    (resource,) = encode_spans(kept.spans).resource_spans
    sent = [(span.name, span.attributes[0].value.string_value) for span in resource.scope_spans[0].spans]
    assert sent == [("?", "good"), ("work", "?")]


def test_a_span_that_cannot_be_encoded_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    tracer = Tracer(kept, RESOURCE, "test")
    bad = tracer.start_span("bad", Context())
    bad.add_event("canary-31\ud800")
    bad.end()
    tracer.start_span("good", Context()).end()
    (resource,) = encode_spans(kept.spans).resource_spans
    assert [span.name for span in resource.scope_spans[0].spans] == ["good"]
    assert caplog.messages == ["a span cannot be sent: bad: UnicodeEncodeError"]
    assert "canary" not in caplog.text


class Receiver:
    """Takes spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, _: object) -> Any:  # noqa: N802 - the name in the proto
        for resource in request.resource_spans:
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_the_exporter_sends_what_is_encoded_here() -> None:
    """How it is told to is no public part of the exporter."""
    receiver, kept = Receiver(), Kept()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    exporter = SpanExporter(endpoint=f"http://127.0.0.1:{port}", insecure=True)
    try:
        Tracer(kept, RESOURCE, "test").start_span("first", Context()).end()
        first = kept.spans[0]
        touchy = Touchy("second", first.context, None, RESOURCE, start_time=1, end_time=2)
        assert exporter.export([first, touchy]) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()
        server.stop(None).wait()
    assert receiver.names == ["first", "second"]


def test_an_exporter_without_a_receiver_says_so_and_raises_nothing() -> None:
    exporter = SpanExporter(endpoint="http://127.0.0.1:9", insecure=True, timeout=0.2)
    kept = Kept()
    Tracer(kept, RESOURCE, "test").start_span("work", Context()).end()
    try:
        assert exporter.export(kept.spans) is SpanExportResult.FAILURE
    finally:
        exporter.shutdown()
