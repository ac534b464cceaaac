"""The store of traces: what an exporter sends is what a question brings back, and it has bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from gatehouse.settings import ConfigurationError
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.stack import Ports
from gatehouse_testbed.tracing.query import check_trace_id, fetch_trace, until_trace
from gatehouse_testbed.tracing.receiver import TraceStore, query_app, run_trace_server
from gatehouse_testbed.tracing.spans import Span

ID = "0" * 30 + "ab"


def some_span(number: int = 1) -> Span:
    return Span(f"{number:016x}", "", "s", "n", "server", 1, 1)


@asynccontextmanager
async def asked(store: TraceStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=query_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://traces.test") as http:
        yield http


async def test_what_an_exporter_sends_is_what_a_question_brings_back() -> None:
    port = Ports.free().traces
    async with run_trace_server(port) as otlp, httpx.AsyncClient() as http:
        provider = TracerProvider(resource=Resource({"service.name": "one"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(otlp, insecure=True)))
        tracer = provider.get_tracer("test")

        def send() -> str:
            with tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer:
                outer.set_attributes({"a": "text", "b": 2, "c": [1, 2]})
                with tracer.start_as_current_span("inner", kind=SpanKind.CLIENT) as inner:
                    inner.set_status(Status(StatusCode.ERROR))
            provider.shutdown()
            return f"{outer.get_span_context().trace_id:032x}"

        trace_id = await asyncio.to_thread(send)
        spans = await until_trace(http, f"http://127.0.0.1:{port}/", trace_id, seconds=10)
    by_name = {span.name: span for span in spans}
    outer, inner = by_name["outer"], by_name["inner"]
    assert inner.parent_id == outer.span_id
    assert (outer.service, outer.kind, inner.kind) == ("one", "server", "client")
    assert (outer.failed, inner.failed) == (False, True)
    assert outer.attributes == {"a": "text", "b": 2, "c": "1, 2"}
    assert outer.duration >= inner.duration


async def test_an_old_trace_goes_when_a_new_one_needs_its_place() -> None:
    store = TraceStore(max_traces=2, max_spans=3)
    for trace_id in ("1", "2", "3"):
        for number in range(5):
            store.add(trace_id, some_span(number))
    assert [len(store.get(trace_id)) for trace_id in ("1", "2", "3")] == [0, 3, 3]


async def test_a_short_id_finds_its_trace_and_others_are_not_found() -> None:
    store = TraceStore()
    store.add(ID, some_span())
    async with asked(store) as http:
        assert len(await fetch_trace(http, "http://traces.test", "AB")) == 1
        assert await fetch_trace(http, "http://traces.test", "cd") == []
        answer = await http.get("/api/traces/nonsense")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, 404)


async def test_a_trace_that_never_comes_is_told_of() -> None:
    async with asked(TraceStore()) as http:
        with pytest.raises(DemoError, match="knows no such trace"):
            await until_trace(http, "http://traces.test", ID, seconds=0.0)


async def test_what_there_is_of_a_trace_is_better_than_nothing() -> None:
    store = TraceStore()
    store.add(ID, some_span())
    async with asked(store) as http:
        found = await until_trace(http, "http://traces.test", ID, seconds=0.0, whole=lambda _: False)
    assert len(found) == 1


async def test_no_server_of_traces_is_told_of() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(DemoError, match="gives no trace"):
            await fetch_trace(http, f"http://127.0.0.1:{Ports.free().traces}", ID)


async def test_a_taken_port_is_told_of() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DemoError, match="cannot listen there"):
            async with run_trace_server(taken.getsockname()[1]):
                pass


def test_a_trace_id_has_up_to_32_hexadecimal_digits() -> None:
    assert check_trace_id("AB") == ID
    for wrong in ("", "xyz", "1" * 33, "../x"):
        with pytest.raises(ConfigurationError, match="is no trace id"):
            check_trace_id(wrong)
