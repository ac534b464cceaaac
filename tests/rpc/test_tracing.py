"""A span for each RPC, in the trace of its caller, on the real SDK."""

from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse import domain
from gatehouse.client import connect
from gatehouse.settings import TlsSettings
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, PROBE, Env, Text, open_env
from tests.support.services import FixedToken
from tests.support.telemetry import Spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
AUTHORIZATION = ("authorization", "Bearer good")


@pytest.mark.parametrize("name", METHODS)
async def test_a_call_makes_a_server_span_in_the_trace_of_its_caller(spans: Spans, name: str) -> None:
    async with open_env(tracer=spans.tracer) as env:
        metadata = (AUTHORIZATION, ("traceparent", TRACEPARENT), ("tracestate", "vendor=1,a@b=2"))
        await env.client.outcome(name, "a", metadata=metadata)
        await eventually(spans.finished)
        line = await env.line()
    (span,) = spans.finished()
    assert (span.name, span.kind) == (f"{PROBE}/{name}", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE == line["trace_id"]
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.parent.trace_state.to_header() == "vendor=1,a@b=2"
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{PROBE}/{name}",
        "rpc.response.status_code": "OK",
        "gatehouse.request_id": line["request_id"],
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_call_without_trace_context_begins_a_trace(spans: Spans) -> None:
    async with open_env(tracer=spans.tracer) as env:
        await env.client.outcome("Unary", "a")
        await env.client.outcome("Unary", "a")
        lines = env.lines()
    assert [span.parent for span in spans.finished()] == [None, None]
    assert len({line["trace_id"] for line in lines}) == 2


async def test_the_trace_context_of_the_handler_is_the_one_of_its_call(spans: Spans) -> None:
    found: list[dict[str, str]] = []

    async def look(*_: object) -> None:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        found.append(carrier)

    async with open_env(tracer=spans.tracer) as env:
        env.probe.on_message = look
        for name in METHODS:
            await env.client.outcome(name, "a", metadata=(AUTHORIZATION, ("traceparent", TRACEPARENT)))
    assert {carrier["traceparent"].split("-")[1] for carrier in found} == {TRACE}
    assert len({carrier["traceparent"] for carrier in found}) == len(METHODS)


@pytest.mark.parametrize(
    ("token", "reason"), [(None, "TOKEN_MISSING"), ("weak", "INSUFFICIENT_SCOPE"), ("x", "TOKEN_INACTIVE")]
)
@pytest.mark.parametrize("name", METHODS)
async def test_a_denial_is_named_in_its_span_and_is_no_fault_of_the_server(
    spans: Spans, name: str, token: str | None, reason: str
) -> None:
    async with open_env(tracer=spans.tracer) as env:
        await env.client.outcome(name, "a", token=token)
        await eventually(spans.finished)
    (span,) = spans.finished()
    assert (span.attributes or {})["error.type"] == reason
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()


# OpenTelemetry's semantic conventions for gRPC: these are the server's own faults.
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
async def test_the_status_of_a_span_follows_the_code(spans: Spans, code: grpc.StatusCode) -> None:
    async def end(_: object, context: Any) -> None:
        context.set_code(code)

    async with open_env(tracer=spans.tracer) as env:
        env.probe.on_message = end
        await env.client.outcome("Unary", "a")
    (span,) = spans.finished()
    assert (span.status.status_code is StatusCode.ERROR) == (code.name in FAULTS)
    assert (span.attributes or {})["rpc.response.status_code"] == code.name


async def test_an_unexpected_error_is_an_error_once_and_without_its_text(spans: Spans) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("canary")

    async with open_env(tracer=spans.tracer) as env:
        env.probe.on_message = fail
        await env.client.outcome("Unary", "a")
    (span,) = spans.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "INTERNAL"
    assert span.events == ()
    assert "canary" not in spans.as_text()


async def test_an_unknown_path_makes_a_span_that_does_not_name_it(spans: Spans) -> None:
    async with open_env(tracer=spans.tracer) as env:
        await env.client.outcome("/canary.v1.Canary/Call", "a")
    (span,) = spans.finished()
    assert span.name == "unknown"
    assert "canary" not in spans.as_text()


async def test_health_works_under_tracing_and_creates_no_spans(spans: Spans) -> None:
    async with open_env(tracer=spans.tracer) as env:
        stub: Any = health_pb2_grpc.HealthStub(env.client.channel)
        request = health_pb2.HealthCheckRequest()
        assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert spans.finished() == []


async def test_the_caller_s_trace_reaches_the_log_line_when_nothing_is_exported(env: Env) -> None:
    await env.client.outcome("Unary", "a", metadata=(AUTHORIZATION, ("traceparent", TRACEPARENT)))
    assert (await env.line())["trace_id"] == TRACE


async def test_an_unsampled_call_keeps_its_trace_and_records_no_span(spans: Spans) -> None:
    sampled: list[bool] = []

    async def look(*_: object) -> None:
        sampled.append(trace.get_current_span().get_span_context().trace_flags.sampled)

    unsampled = f"00-{TRACE}-{PARENT}-00"
    async with open_env(tracer=spans.tracer) as env:
        env.probe.on_message = look
        await env.client.outcome("Unary", "a", metadata=(AUTHORIZATION, ("traceparent", unsampled)))
        line = await env.line()
    assert line["trace_id"] == TRACE
    assert sampled == [False]
    assert spans.finished() == []


async def test_without_any_trace_a_line_names_none(env: Env) -> None:
    await env.client.outcome("Unary", "a")
    assert "trace_id" not in await env.line()


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "canary",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}",
        f"ff-{TRACE}-{PARENT}-01",
        f"{TRACEPARENT}-{'canary' * 1000}",
    ],
)
async def test_a_malformed_traceparent_is_as_none(
    spans: Spans, caplog: pytest.LogCaptureFixture, traceparent: str
) -> None:
    async with open_env(tracer=spans.tracer) as env:
        metadata = (AUTHORIZATION, ("traceparent", traceparent))
        assert (await env.client.outcome("Unary", "a", metadata=metadata))[0] is grpc.StatusCode.OK
    assert spans.finished()[0].parent is None
    assert "opentelemetry" not in str(caplog.record_tuples)


@pytest.mark.parametrize(
    "tracestate",
    [
        "canary",
        "Canary=1",
        "canary=1,canary",
        "canary=with=equals",
        "canary=" + "x" * 600,
        ",".join(f"canary{n}=1" for n in range(33)),
        "1canary=1",
    ],
)
async def test_a_malformed_tracestate_is_dropped_and_not_logged(
    spans: Spans, caplog: pytest.LogCaptureFixture, tracestate: str
) -> None:
    async with open_env(tracer=spans.tracer) as env:
        metadata = (AUTHORIZATION, ("traceparent", TRACEPARENT), ("tracestate", tracestate))
        await env.client.outcome("Unary", "a", metadata=metadata)
    (span,) = spans.finished()
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE
    assert "canary" not in spans.as_text() + caplog.text


@pytest.mark.parametrize("name", METHODS)
async def test_a_channel_makes_a_client_span_whose_child_is_the_server_s(spans: Spans, name: str) -> None:
    async with open_env(tracer=spans.tracer) as env, _channel(env, spans) as channel:
        with spans.tracer.start_as_current_span("around"):
            await type(env.client)(channel).outcome(name, "a", token=None)
        await eventually(lambda: len(spans.finished()) == 3)
    found = {span.kind: span for span in spans.finished()}
    client, server, around = found[SpanKind.CLIENT], found[SpanKind.SERVER], found[SpanKind.INTERNAL]
    assert server.parent is not None
    assert client.parent is not None
    assert around.context is not None
    assert client.context is not None
    assert server.parent.span_id == client.context.span_id
    assert client.parent.span_id == around.context.span_id
    assert client.name == f"{PROBE}/{name}"
    assert (client.attributes or {})["rpc.response.status_code"] == "OK"
    assert client.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("name", METHODS)
async def test_a_client_span_of_a_call_that_failed_is_an_error(spans: Spans, name: str) -> None:
    async def fail(*_: object) -> None:
        raise domain.NotFound("USER_NOT_FOUND", "there is no such user")

    async with open_env() as env, _channel(env, spans) as channel:
        env.probe.on_message = fail
        await type(env.client)(channel).outcome(name, "a", token=None)
        await eventually(spans.finished)
    (span,) = spans.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["rpc.response.status_code"] == "NOT_FOUND"


async def test_a_channel_without_tracer_hands_the_trace_of_its_caller_on(env: Env) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": TRACEPARENT})
    remote = trace.get_current_span(context)
    async with connect(
        f"127.0.0.1:{env.port}", tls=TlsSettings(plaintext=True), tokens=FixedToken("good")
    ) as channel:
        with trace.use_span(remote):
            stub: Any = channel.unary_unary(f"/{PROBE}/Unary", Text.SerializeToString, Text.FromString)
            await stub(Text(value="a"))
    assert (await env.line())["trace_id"] == TRACE


def _channel(env: Env, spans: Spans) -> grpc.aio.Channel:
    return connect(
        f"127.0.0.1:{env.port}",
        tls=TlsSettings(plaintext=True),
        tokens=FixedToken("good"),
        tracer=spans.tracer,
    )
