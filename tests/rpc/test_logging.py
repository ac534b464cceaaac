"""One line for each RPC, of named fields only."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse import domain
from gatehouse.oauth import Actor
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, PROBE, Env, Text, open_env, principal
from tests.support.telemetry import JsonLog, MetricsReader, Spans

ALWAYS = {
    "event",
    "level",
    "timestamp",
    "method",
    "rpc_type",
    "code",
    "duration_ms",
    "bytes_received",
    "bytes_sent",
    "peer",
    "request_id",
}
CALLER = {"client_id", "issuer", "subject"}


@pytest.fixture
def log() -> JsonLog:
    """The application's logger."""
    return JsonLog()


RPC_TYPES = {
    "Unary": "unary",
    "ServerStream": "server_streaming",
    "ServerStreamByWrite": "server_streaming",
    "ClientStream": "client_streaming",
    "BidiStream": "bidi_streaming",
}


@pytest.mark.parametrize("name", METHODS)
async def test_a_call_makes_one_line_with_the_documented_fields(log: JsonLog, name: str) -> None:
    async with open_env(logger=log.logger) as env:
        await env.client.outcome(name, "abc")
        await eventually(log.lines)
    (line,) = log.lines()
    assert set(line) == ALWAYS | CALLER
    answers = 3 if name.startswith("ServerStream") else 1
    assert line["method"] == f"{PROBE}/{name}"
    assert (line["rpc_type"], line["code"], line["level"]) == (RPC_TYPES[name], "OK", "info")
    assert (line["bytes_received"], line["bytes_sent"]) == (5, 5 * answers)
    assert (line["client_id"], line["subject"]) == ("console", "subject-of-alice")
    assert line["issuer"] == "https://issuer.test"


async def test_line_names_the_actor_of_the_token(log: JsonLog) -> None:
    async with open_env(logger=log.logger) as env:
        env.verifier.answers["good"] = principal("use:probe", actor=Actor("https://sts.test", "support"))
        await env.client.outcome("Unary", "a")
        await eventually(log.lines)
    (line,) = log.lines()
    assert (line["actor_issuer"], line["actor_subject"]) == ("https://sts.test", "support")
    assert line["duration_ms"] > 0
    assert re.fullmatch(r"[0-9a-f]{16}", line["request_id"])
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("name", METHODS)
async def test_a_denied_call_makes_one_line_with_its_reason(log: JsonLog, name: str) -> None:
    async with open_env(logger=log.logger) as env:
        await env.client.outcome(name, "a", token=None)
        await eventually(log.lines)
    (line,) = log.lines()
    assert set(line) == ALWAYS | {"reason"}
    assert (line["code"], line["reason"], line["level"]) == ("UNAUTHENTICATED", "TOKEN_MISSING", "warning")


async def test_caller_is_named_only_if_its_token_is_valid(log: JsonLog) -> None:
    async with open_env(logger=log.logger) as env:
        for token in ("weak", "never-seen"):
            await env.client.outcome("Unary", "a", token=token)
    denied, unknown = log.lines()
    assert set(denied) >= CALLER
    assert not set(unknown) & CALLER


async def test_an_unexpected_error_makes_a_line_with_its_id(log: JsonLog) -> None:
    async def fail(*_: object) -> None:
        raise ValueError

    async with open_env(logger=log.logger) as env:
        env.probe.on_message = fail
        await env.client.outcome("Unary", "a")
    (line,) = log.lines()
    assert set(line) == ALWAYS | CALLER | {"reason", "error_id"}
    assert line["level"] == "error"
    (detail,) = log.lines("unexpected error")
    assert set(detail) == {"event", "level", "timestamp", "error_id", "method", "error_type", "error_at"}


LEVELS = {
    "OK": "info",
    "CANCELLED": "info",
    "INVALID_ARGUMENT": "info",
    "NOT_FOUND": "info",
    "ALREADY_EXISTS": "info",
    "ABORTED": "info",
    "FAILED_PRECONDITION": "info",
    "OUT_OF_RANGE": "info",
    "UNAUTHENTICATED": "warning",
    "PERMISSION_DENIED": "warning",
    "RESOURCE_EXHAUSTED": "warning",
    "DEADLINE_EXCEEDED": "warning",
    "UNIMPLEMENTED": "warning",
    "UNAVAILABLE": "warning",
    "UNKNOWN": "error",
    "INTERNAL": "error",
    "DATA_LOSS": "error",
}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
async def test_the_level_follows_the_code(env: Env, code: grpc.StatusCode) -> None:
    async def end(_: object, context: Any) -> None:
        context.set_code(code)

    env.probe.on_message = end
    await env.client.outcome("Unary", "a")
    line = await env.line()
    assert (line["code"], line["level"]) == (code.name, LEVELS[code.name])


async def test_health_checks_are_lines_at_debug_only() -> None:
    debug = JsonLog("debug")
    async with open_env(logger=debug.logger) as env:
        await health_pb2_grpc.HealthStub(env.client.channel).Check(health_pb2.HealthCheckRequest())
        await eventually(debug.lines)
    assert [line["level"] for line in debug.lines()] == ["debug"]


async def test_a_call_that_is_under_way_makes_no_line_yet(env: Env) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        await go_on.wait()

    env.probe.on_message = wait
    call = env.client.call("Unary", "a")
    sending = asyncio.ensure_future(call.code())
    await begun.wait()
    assert env.lines() == []
    go_on.set()
    await sending
    assert len(env.lines()) == 1


TOKEN, SECRET_CLAIM = "canary-token", "canary-claim"
FAILURES = {
    "nothing": None,
    "unexpected": ValueError("canary-exception"),
    "chained": RuntimeError("canary-exception"),
    "domain": domain.NotFound("USER_NOT_FOUND", "there is no such user"),
    "several": ExceptionGroup("canary-exception", [ValueError("canary-exception")]),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", METHODS)
async def test_no_secret_reaches_a_line_a_span_a_metric_or_an_answer(
    spans: Spans,
    metrics: MetricsReader,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    name: str,
    failure: str,
) -> None:
    log = JsonLog("debug")
    caplog.set_level("DEBUG")

    async def fail(request: Text, context: Any) -> None:
        error = FAILURES[failure]
        if error is not None:
            raise error from KeyError(request.value)

    async with open_env(logger=log.logger, tracer=spans.tracer, metrics=metrics.rpc) as env:
        env.verifier.answers[TOKEN] = principal("use:probe", claims={"email": SECRET_CLAIM})
        env.probe.on_message = fail
        metadata = (
            ("authorization", f"Bearer {TOKEN}"),
            ("x-secret", "canary-metadata"),
            ("x-request-id", "canary metadata"),
            ("cookie", "canary-cookie"),
            ("traceparent", "canary-traceparent"),
            ("tracestate", "canary-tracestate"),
        )
        call = env.client.call(name, "canary-request", metadata=metadata)
        code, details = await _ended(call), await call.details()
        trailers = await call.trailing_metadata()
        for token in ("canary-other", "canary-malformed,token", f"canary{'x' * 9000}"):
            await env.client.outcome(name, "canary-request", token=token)
    texts = {
        "log": log.as_text(),
        "spans": spans.as_text(),
        "metrics": metrics.as_text(),
        "answer": f"{code} {details} {trailers}",
        "standard logging": caplog.text,
        "standard streams": "".join(capfd.readouterr()),
    }
    assert "canary" not in str(texts), [where for where, text in texts.items() if "canary" in text]
    assert all(texts[where] for where in ("log", "spans", "metrics"))


async def _ended(call: Any) -> grpc.StatusCode:
    if hasattr(call, "__aiter__"):
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            pass
    code: grpc.StatusCode = await call.code()
    return code


async def test_lines_are_in_the_order_in_which_calls_ended(log: JsonLog) -> None:
    async with open_env(logger=log.logger) as env:
        await env.client.outcome("Unary", "a")
        await env.client.outcome("BidiStream", "a")
        await env.client.outcome("Unary", "a", token=None)
    lines = log.lines()
    assert [(line["method"].split("/")[1], line["code"]) for line in lines] == [
        ("Unary", "OK"),
        ("BidiStream", "OK"),
        ("Unary", "UNAUTHENTICATED"),
    ]


async def test_the_timestamp_of_a_line_is_the_end_of_its_call(log: JsonLog) -> None:
    async with open_env(logger=log.logger) as env:
        before = datetime.now(UTC)
        await env.client.outcome("Unary", "a")
        after = datetime.now(UTC)
    assert before <= datetime.fromisoformat(log.lines()[0]["timestamp"]) <= after


async def test_pending_lines_are_written_when_the_server_stops(log: JsonLog) -> None:
    async with open_env(logger=log.logger) as env:
        for _ in range(3):
            await env.client.outcome("Unary", "a")
    assert len(log.lines()) == 3


async def test_a_line_names_no_trace_of_another_call(
    log: JsonLog, spans: Spans, metrics: MetricsReader
) -> None:
    """Lines are written in batches, outside of the context of any call."""
    debug = JsonLog("debug")
    async with open_env(logger=debug.logger, tracer=spans.tracer, metrics=metrics.rpc) as env:
        await env.client.outcome("Unary", "a")
        await health_pb2_grpc.HealthStub(env.client.channel).Check(health_pb2.HealthCheckRequest())
        await env.client.outcome("Unary", "a")
        await env.client.outcome("Unary", "a", token=None)
    traces = [line.get("trace_id") for line in debug.lines()]
    assert traces[1] is None
    assert len(set(traces)) == 4


async def test_a_call_that_ends_after_the_server_makes_its_line_and_span(log: JsonLog, spans: Spans) -> None:
    """Its handler clears away what it began, and takes longer than the server waits."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()

    async with open_env(logger=log.logger, tracer=spans.tracer) as env:
        env.probe.on_message = work
        call = asyncio.ensure_future(env.client.outcome("Unary", "a"))
        await begun.wait()
        await env.server.stop(0)
        await call
        assert log.lines() == []
        go_on.set()
        await eventually(log.lines)
        assert [line["code"] for line in log.lines()] == ["CANCELLED"]
        assert len(spans.finished()) == 1
