"""Spans and their tracer, held against the SDK's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from gatehouse.telemetry import Span, Tracer
from gatehouse.telemetry.spans import MAX_ATTRIBUTES, MAX_EVENTS, MAX_LINKS

RESOURCE = Resource({"service.name": "test"})
CANARY = "canary-5f1d"


class Kept(SpanProcessor):
    """Keeps the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def tracer(kept: Kept) -> Tracer:
    return Tracer(kept, RESOURCE, "test")


def remote(trace_id: int, *, sampled: bool, more_flags: int = 0) -> tuple[SpanContext, Context]:
    flags = TraceFlags((TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT) | more_flags)
    ids = SpanContext(trace_id, 7, is_remote=True, trace_flags=flags, trace_state=TraceState([("a", "b")]))
    return ids, set_span_in_context(NonRecordingSpan(ids), Context())


def only(kept: Kept) -> ReadableSpan:
    (span,) = kept.spans
    return span


def test_a_span_has_all_that_it_was_given(tracer: Tracer, kept: Kept) -> None:
    ids, parent = remote(5, sampled=True)
    link = Link(SpanContext(8, 9, is_remote=True))
    span = tracer.start_span("work", parent, SpanKind.CLIENT, {"a": "b"}, [link], 100)
    span.set_attribute("c", 1)
    span.set_attributes({"d": True, "e": (1.5, 2.5)})
    span.add_event("said", {"f": "g"}, 150)
    span.add_link(SpanContext(10, 11, is_remote=False), {"h": "i"})
    span.update_name("other")
    span.set_status(StatusCode.ERROR, "why")
    span.end(200)
    seen = only(kept)
    assert [found.context for found in kept.spans] == [span.get_span_context()]
    assert isinstance(span, Span)
    assert (seen.name, seen.kind, seen.start_time, seen.end_time) == ("other", SpanKind.CLIENT, 100, 200)
    assert dict(seen.attributes or {}) == {"a": "b", "c": 1, "d": True, "e": (1.5, 2.5)}
    assert [(e.name, dict(e.attributes or {}), e.timestamp) for e in seen.events] == [
        ("said", {"f": "g"}, 150)
    ]
    assert [found.context.span_id for found in seen.links] == [9, 11]
    assert (seen.status.status_code, seen.status.description) == (StatusCode.ERROR, "why")
    assert seen.parent == ids
    assert seen.resource is RESOURCE
    assert seen.instrumentation_scope is not None
    assert seen.instrumentation_scope.name == "test"
    own = span.get_span_context()
    assert (own.trace_id, own.is_remote, own.trace_state) == (5, False, ids.trace_state)
    assert own.span_id not in {0, 7}


def test_times_are_those_of_the_clock(tracer: Tracer, kept: Kept) -> None:
    tracer.start_span("work").end()
    seen = only(kept)
    assert seen.start_time is not None
    assert seen.end_time is not None
    assert 1e18 < seen.start_time <= seen.end_time


def test_a_span_that_has_ended_changes_no_more(tracer: Tracer, kept: Kept) -> None:
    span = tracer.start_span("work")
    assert span.is_recording()
    span.end(200)
    assert not span.is_recording()
    span.end(300)
    span.set_attribute("a", "b")
    span.add_event("said")
    span.add_link(SpanContext(8, 9, is_remote=True))
    span.update_name("other")
    span.set_status(StatusCode.ERROR)
    seen = only(kept)
    assert (seen.name, seen.end_time, seen.status.status_code) == ("work", 200, StatusCode.UNSET)
    assert (dict(seen.attributes or {}), seen.events, seen.links) == ({}, (), ())


def test_what_a_span_holds_is_bounded(tracer: Tracer, kept: Kept) -> None:
    many = [Link(SpanContext(8, 9, is_remote=True))] * (MAX_LINKS + 1)
    span = tracer.start_span("work", links=many)
    for number in range(MAX_EVENTS + 1):
        span.add_event(str(number))
    span.add_link(SpanContext(8, 9, is_remote=True))
    span.set_attributes({str(number): "first" for number in range(MAX_ATTRIBUTES - 1)})
    span.set_attributes({"0": "again", "new": "fits", "more": "does not"})
    span.end()
    seen = only(kept)
    attributes = dict(seen.attributes or {})
    assert (len(attributes), len(seen.events), len(seen.links)) == (MAX_ATTRIBUTES, MAX_EVENTS, MAX_LINKS)
    assert (attributes["0"], attributes["new"]) == ("again", "fits")
    assert "more" not in attributes


@pytest.mark.parametrize("value", ["text", 1])
def test_a_span_that_is_given_too_many_attributes_holds_the_first(
    tracer: Tracer, kept: Kept, value: str | int
) -> None:
    many = dict.fromkeys(map(str, range(MAX_ATTRIBUTES + 1)), value)
    tracer.start_span("work", attributes=many).end()
    assert list(only(kept).attributes or {}) == list(many)[:MAX_ATTRIBUTES]


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ([StatusCode.UNSET], StatusCode.UNSET),
        ([StatusCode.ERROR, StatusCode.UNSET], StatusCode.ERROR),
        ([StatusCode.ERROR, StatusCode.OK], StatusCode.OK),
        ([StatusCode.OK, StatusCode.ERROR], StatusCode.OK),
    ],
)
def test_a_status_of_ok_is_final(
    tracer: Tracer, kept: Kept, said: list[StatusCode], ends: StatusCode
) -> None:
    span = tracer.start_span("work")
    for code in said:
        span.set_status(Status(code))
    span.end()
    assert only(kept).status.status_code is ends


def test_the_text_of_an_exception_is_not_recorded(tracer: Tracer, kept: Kept) -> None:
    def fail() -> None:
        raise ValueError(CANARY)

    with pytest.raises(ValueError, match=CANARY), tracer.start_as_current_span("work"):
        fail()
    seen = only(kept)
    assert CANARY not in seen.to_json()
    assert (seen.status.status_code, seen.status.description) == (StatusCode.ERROR, "ValueError")
    (event,) = seen.events
    assert dict(event.attributes or {}) == {
        "exception.type": "ValueError",
        "exception.escaped": "False",
    }


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("status", [True, False])
def test_a_span_that_is_its_own_block_takes_its_exception(
    tracer: Tracer, kept: Kept, recorded: bool, status: bool
) -> None:
    with (
        pytest.raises(ValueError, match=CANARY),
        tracer.start_span("work", record_exception=recorded, set_status_on_exception=status),
    ):
        raise ValueError(CANARY)
    seen = only(kept)
    assert CANARY not in seen.to_json()
    assert seen.status.status_code is (StatusCode.ERROR if status else StatusCode.UNSET)
    assert [event.name for event in seen.events] == ["exception"] * recorded


def test_what_ends_a_block_and_is_no_error_is_not_recorded(tracer: Tracer, kept: Kept) -> None:
    with pytest.raises(asyncio.CancelledError), tracer.start_span("work"):
        raise asyncio.CancelledError
    with pytest.raises(asyncio.CancelledError), tracer.start_as_current_span("work"):
        raise asyncio.CancelledError
    assert [(span.status.status_code, span.events) for span in kept.spans] == [(StatusCode.UNSET, ())] * 2


class Strange(Exception):
    """Of this module."""


def test_an_exception_that_is_not_built_in_is_named_with_its_module(tracer: Tracer, kept: Kept) -> None:
    span = tracer.start_span("work")
    span.record_exception(Strange(CANARY), {"more": "said"})
    span.end()
    (event,) = only(kept).events
    assert dict(event.attributes or {}) == {
        "exception.type": f"{__name__}.Strange",
        "exception.escaped": "False",
        "more": "said",
    }


def test_an_exception_passes_a_span_that_is_not_kept(kept: Kept) -> None:
    tracer = Tracer(kept, RESOURCE, "test", sample_ratio=0)
    with pytest.raises(ValueError, match=CANARY), tracer.start_as_current_span("work") as span:
        raise ValueError(CANARY)
    assert not span.is_recording()
    assert kept.spans == []


async def test_a_coroutine_can_be_decorated(tracer: Tracer, kept: Kept) -> None:
    current: list[trace.Span] = []

    @tracer.start_as_current_span("work")
    async def work() -> None:
        await asyncio.sleep(0)
        current.append(trace.get_current_span())
        assert kept.spans == []

    await work()
    assert [span.get_span_context() for span in current] == [only(kept).context]


def test_values_are_frozen_and_what_is_no_attribute_is_dropped(tracer: Tracer, kept: Kept) -> None:
    said: Any = {"list": ["a"], "text": "b", "": "no key"}
    span = tracer.start_span("work", attributes=said)
    span.add_event("said", said)
    span.add_link(SpanContext(8, 9, is_remote=True), said)
    span.set_attributes({"later": said["list"]})
    span.end()
    said["list"].append("changed")
    said["text"] = "changed"
    seen = only(kept)
    assert dict(seen.attributes or {}) == {"list": ("a",), "text": "b", "later": ("a",)}
    assert dict(seen.events[0].attributes or {}) == {"list": ("a",), "text": "b"}
    assert dict(seen.links[0].attributes or {}) == {"list": ("a",), "text": "b"}


def test_flags_that_are_not_defined_do_not_travel_on(tracer: Tracer) -> None:
    """W3C Trace Context Level 2, section 3.2.2.5: they are to be zero."""
    _, parent = remote(5, sampled=True, more_flags=0xFE)
    assert decided(tracer, parent)[1].trace_flags == 3
    _, parent = remote(5, sampled=False, more_flags=0xFC)
    assert decided(tracer, parent)[1].trace_flags == 0


def test_whoever_says_so_has_no_exception_recorded(tracer: Tracer, kept: Kept) -> None:
    with (
        pytest.raises(ValueError, match=CANARY),
        tracer.start_as_current_span("work", record_exception=False, set_status_on_exception=False),
    ):
        raise ValueError(CANARY)
    seen = only(kept)
    assert (seen.status.status_code, seen.events) == (StatusCode.UNSET, ())


def test_a_span_is_current_within_its_block_and_ends_with_it(tracer: Tracer, kept: Kept) -> None:
    outside = trace.get_current_span()
    with tracer.start_as_current_span("outer") as outer:
        assert trace.get_current_span() is outer
        inner = tracer.start_span("inner")
        inner.end()
    assert trace.get_current_span() is outside
    first, second = kept.spans
    assert (first.name, second.name) == ("inner", "outer")
    assert first.parent == outer.get_span_context()
    assert second.parent is None


def test_a_span_can_outlive_its_block(tracer: Tracer, kept: Kept) -> None:
    with tracer.start_as_current_span("work", end_on_exit=False) as span:
        pass
    assert kept.spans == []
    span.end()
    assert [found.context for found in kept.spans] == [span.get_span_context()]


def decided(tracer: Tracer, context: Context) -> tuple[trace.Span, SpanContext]:
    span = tracer.start_span("work", context)
    return span, span.get_span_context()


@given(st.floats(0, 1), st.integers(1, 2**128 - 1), st.booleans())
def test_a_child_is_kept_when_its_parent_is(ratio: float, trace_id: int, sampled: bool) -> None:
    _, parent = remote(trace_id, sampled=sampled)
    span, ids = decided(Tracer(Kept(), RESOURCE, "test", sample_ratio=ratio), parent)
    assert (span.is_recording(), ids.trace_flags.sampled, ids.trace_id) == (sampled, sampled, trace_id)


@given(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.5, 1.0])))
def test_a_root_is_kept_as_the_sampler_of_the_specification_would(ratio: float) -> None:
    sampler: Any = ParentBased(TraceIdRatioBased(ratio))
    tracer = Tracer(Kept(), RESOURCE, "test", sample_ratio=ratio)
    for _ in range(20):
        span, ids = decided(tracer, Context())
        expected = (
            sampler.should_sample(Context(), ids.trace_id, "work").decision is Decision.RECORD_AND_SAMPLE
        )
        assert (span.is_recording(), ids.trace_flags.sampled) == (expected, expected)
        assert ids.is_valid
        assert ids.trace_flags.random_trace_id


def test_roots_have_traces_of_their_own(tracer: Tracer) -> None:
    found = [decided(tracer, Context())[1] for _ in range(100)]
    assert len({ids.trace_id for ids in found}) == len({ids.span_id for ids in found}) == 100
