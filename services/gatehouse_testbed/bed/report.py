"""What a test bed has seen, as lines in the report of a failed test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.bed.records import RecordedSpan
from gatehouse_testbed.errors import TestbedError

SHOWN = 50


def report(testbed: Testbed) -> str:
    """Return the newest calls, spans, requests to the issuer and warnings, and the faults."""
    try:
        return "\n".join(_lines(testbed)) or "no call, no request to the issuer, no fault"
    except TestbedError as error:
        return str(error)


def _lines(testbed: Testbed) -> Iterator[str]:
    for call in testbed.calls()[-SHOWN:]:
        caller = call.caller or "an unknown caller"
        yield f"call   {call.method} by {caller}: {call.code} {call.reason} (trace {call.trace_id})"
    spans = testbed.spans()[-SHOWN:]
    known = {span.span_id for span in spans}
    for span in spans:
        if span.parent_id not in known:
            yield f"trace  {span.trace_id}"
            yield from _span_lines(span, spans)
    for request in testbed.issuer_requests()[-SHOWN:]:
        answer = f"{request.status or 'no answer'} {request.error}".rstrip()
        yield f"issuer {request.method} {request.endpoint}: {answer}"
    warnings = [line for line in testbed.logs() if line.get("level") not in {"debug", "info"}]
    for line in warnings[-SHOWN:]:
        yield f"log    {json.dumps(line)}"
    for name, fault in testbed.faults.list().items():
        yield f"fault  {name}: {fault}"


def _span_lines(span: RecordedSpan, spans: Sequence[RecordedSpan], indent: str = "  ") -> Iterator[str]:
    """Yield a span, and what it contains below it."""
    error = " error" if span.status == "error" else ""
    yield f"span   {indent}{span.name} {span.duration_ms:.1f} ms{error}"
    for inner in spans:
        if inner.parent_id == span.span_id:
            yield from _span_lines(inner, spans, f"{indent}  ")
