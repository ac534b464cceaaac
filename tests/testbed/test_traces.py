"""The trace receiver: it returns what exporters send, and it is bounded."""

from __future__ import annotations

import asyncio
import dataclasses
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

from gatehouse.client.traces.jaeger import parse_trace_id
from gatehouse.client.traces.spans import Span
from gatehouse.settings import ConfigurationError
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.stack_ports import Ports
from gatehouse_testbed.tracing.query import fetch_trace, find_trace, wait_for_trace
from gatehouse_testbed.tracing.receiver import TraceStore, query_app, run_trace_server

ID = "0" * 30 + "ab"


def some_span(number: int = 1) -> Span:
    return Span(f"{number:016x}", "", "s", "n", "server", 1, 1)


@asynccontextmanager
async def client_of(store: TraceStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=query_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://traces.test") as http:
        yield http


async def test_query_returns_what_an_exporter_sent() -> None:
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
        spans = await wait_for_trace(http, f"http://127.0.0.1:{port}/", trace_id, seconds=10)
    by_name = {span.name: span for span in spans}
    outer, inner = by_name["outer"], by_name["inner"]
    assert inner.parent_id == outer.span_id
    assert (outer.service, outer.kind, inner.kind) == ("one", "server", "client")
    assert (outer.failed, inner.failed) == (False, True)
    assert outer.attributes == {"a": "text", "b": 2, "c": "1, 2"}
    assert outer.duration >= inner.duration


async def test_oldest_trace_is_dropped_first() -> None:
    store = TraceStore(max_traces=2, max_spans=3)
    for trace_id in ("1", "2", "3"):
        for number in range(5):
            store.add(trace_id, some_span(number))
    assert [len(store.get(trace_id)) for trace_id in ("1", "2", "3")] == [0, 3, 3]


async def test_short_id_finds_its_trace() -> None:
    store = TraceStore()
    store.add(ID, some_span())
    async with client_of(store) as http:
        assert len(await fetch_trace(http, "http://traces.test", "AB")) == 1
        assert await fetch_trace(http, "http://traces.test", "cd") == []
        answer = await http.get("/api/traces/nonsense")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, 404)


async def test_missing_trace_is_an_error_of_one_line() -> None:
    async with client_of(TraceStore()) as http:
        with pytest.raises(TestbedError, match="not found at"):
            await wait_for_trace(http, "http://traces.test", ID, seconds=0.0)


async def test_incomplete_trace_is_returned_at_the_end_of_the_wait() -> None:
    store = TraceStore()
    store.add(ID, some_span())
    async with client_of(store) as http:
        found = await wait_for_trace(http, "http://traces.test", ID, seconds=0.0, complete=lambda _: False)
    assert len(found) == 1


async def test_missing_server_is_an_error_of_one_line() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(TestbedError, match="connection refused; check `traces_url`"):
            await fetch_trace(http, f"http://127.0.0.1:{Ports.free().traces}", ID)


async def test_taken_port_is_an_error_of_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TestbedError, match="cannot listen"):
            async with run_trace_server(taken.getsockname()[1]):
                pass


def test_trace_id_has_up_to_32_hexadecimal_digits() -> None:
    assert parse_trace_id("AB") == ID
    for wrong in ("", "xyz", "1" * 33, "../x"):
        with pytest.raises(ConfigurationError, match="not a trace id"):
            parse_trace_id(wrong)


async def test_command_without_a_configured_server_says_how_to_name_one() -> None:
    with pytest.raises(ConfigurationError, match="use --url"):
        await find_trace(ID, None)


async def test_newest_traces_of_a_service_are_found() -> None:
    store = TraceStore()
    for number in range(1, 5):
        store.add(f"{number:032x}", dataclasses.replace(some_span(), service="odd" if number % 2 else "even"))
    async with client_of(store) as http:
        assert (await http.get("/api/services")).json()["data"] == ["even", "odd"]
        newest = (await http.get("/api/traces?service=odd&limit=1")).json()["data"]
        assert [trace["traceID"] for trace in newest] == [f"{3:032x}"]
        assert (await http.get("/api/traces?service=other")).json()["data"] == []
        assert (await http.get("/api/traces?service=odd&limit=x")).status_code == 400
