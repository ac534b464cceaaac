"""Spans as a tree, and in the JSON of Jaeger."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gatehouse.client.traces.jaeger import parse_traces, to_jaeger
from gatehouse.client.traces.spans import MAX_SPANS, Span, Trace, tree


def span(number: int, parent: int = 0, **more: object) -> Span:
    values = {"service": "s", "name": f"n{number}", "kind": "server", "start": number, "duration": 5} | more
    return Span(f"{number:016x}", f"{parent:016x}" if parent else "", **values)


def lines(spans: list[Span]) -> list[str]:
    return [row.guide + row.span.name for row in tree(spans)]


def test_spans_are_below_their_parents_in_order_of_time() -> None:
    assert lines([span(5, 2), span(3, 1), span(1), span(4, 2), span(2, 1)]) == [
        "n1",
        "├─ n2",
        "│  ├─ n4",
        "│  └─ n5",
        "└─ n3",
    ]


def test_span_whose_parent_is_missing_is_a_root() -> None:
    assert lines([span(1, 99), span(2, 1), span(3, 98)]) == ["n1", "└─ n2", "n3"]


def test_spans_in_a_cycle_are_left_out() -> None:
    assert lines([span(1), span(2, 3), span(3, 2), span(4, 4)]) == ["n1"]


def test_very_deep_trace_is_complete() -> None:
    assert len(tree([span(n, n - 1) for n in range(1, MAX_SPANS + 1)])) == MAX_SPANS


def test_spans_survive_a_round_trip_through_json() -> None:
    spans = [
        span(1, service="a", attributes={"text": "x", "number": 3, "rate": 0.5, "flag": True}),
        span(2, 1, service="b", kind="client", failed=True),
    ]
    found = to_jaeger("ab" * 16, spans)
    assert {p["serviceName"] for p in found["processes"].values()} == {"a", "b"}
    assert [tag["type"] for tag in found["spans"][0]["tags"][:4]] == ["string", "int64", "float64", "bool"]
    assert parse_traces(json.dumps({"data": [found]}).encode()) == [Trace("ab" * 16, spans)]


def test_trace_that_is_too_long_is_cut() -> None:
    found = to_jaeger("1", [dataclasses.replace(span(1), span_id=str(n)) for n in range(MAX_SPANS + 5)])
    assert len(parse_traces(json.dumps({"data": [found]}).encode())[0].spans) == MAX_SPANS


@pytest.mark.parametrize(
    "answer", ['{"data": [{}]}', '{"data": [{"spans": [{}]}]}', "[]", "", '{"data": 1e999}']
)
def test_answer_of_something_else_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="not a response of Jaeger"):
        parse_traces(answer.encode())


def test_answer_without_data_has_no_spans() -> None:
    assert parse_traces(b'{"data": null, "errors": []}') == []
