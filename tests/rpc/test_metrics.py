"""Metrics of RPC servers, as Prometheus reads them."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse import domain
from gatehouse.oauth import IssuerUnavailable
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, PROBE, open_env
from tests.support.telemetry import MetricsReader

DURATION = "rpc_server_call_duration_seconds_count"
IN_FLIGHT = "gatehouse_rpc_in_flight"
DENIALS = "gatehouse_authorization_denials_total"


def labels(name: str, code: str = "OK") -> dict[str, str]:
    return {
        "rpc_system_name": "grpc",
        "rpc_method": f"{PROBE}/{name}",
        "rpc_response_status_code": code,
    }


@pytest.mark.parametrize("name", METHODS)
async def test_durations_are_counted_by_rpc_and_code(metrics: MetricsReader, name: str) -> None:
    async def fail(request: Any, _: object) -> None:
        if request.value == "missing":
            raise domain.NotFound("USER_NOT_FOUND", "there is no such user")

    async with open_env(metrics=metrics.rpc) as env:
        env.probe.on_message = fail
        for value in ("a", "a", "missing"):
            await env.client.outcome(name, value)
        await eventually(lambda: sum(metrics.samples(DURATION).values()) == 3)
    assert metrics.value(DURATION, **labels(name)) == 2
    assert metrics.value(DURATION, **labels(name, "NOT_FOUND")) == 1


async def test_buckets_reach_from_a_millisecond_to_ten_seconds(metrics: MetricsReader) -> None:
    async with open_env(metrics=metrics.rpc) as env:
        await env.client.outcome("Unary", "a")
    found = {dict(k)["le"] for k in metrics.samples("rpc_server_call_duration_seconds_bucket")}
    assert {"0.001", "0.25", "10.0", "+Inf"} <= found


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ending", ["answered", "failed", "cancelled", "denied"])
async def test_calls_in_flight_return_to_zero(metrics: MetricsReader, name: str, ending: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    counted: list[float] = []
    method = {"rpc_system_name": "grpc", "rpc_method": f"{PROBE}/{name}"}

    async def wait(*_: object) -> None:
        counted.append(metrics.value(IN_FLIGHT, **method))
        begun.set()
        await go_on.wait()
        if ending == "failed":
            raise ValueError

    async with open_env(metrics=metrics.rpc) as env:
        env.probe.on_message = wait
        if ending == "denied":
            await env.client.outcome(name, "a", token=None)
        else:
            outcome = asyncio.create_task(env.client.outcome(name, "a"))
            await begun.wait()
            assert counted == [1.0]
            if ending == "cancelled":
                outcome.cancel()
            else:
                go_on.set()
            await asyncio.wait({outcome})
        await eventually(env.lines)
        await eventually(lambda: metrics.value(IN_FLIGHT, **method) == 0)
    assert len(metrics.samples(IN_FLIGHT)) == 1


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "token_missing"),
        ("weak", "insufficient_scope"),
        ("never-seen", "token_inactive"),
        ("two words", "authorization_malformed"),
    ],
)
async def test_denials_are_counted_by_reason(metrics: MetricsReader, token: str | None, reason: str) -> None:
    async with open_env(metrics=metrics.rpc) as env:
        for name in METHODS:
            await env.client.outcome(name, "a", token=token)
    assert {dict(k)["reason"] for k in metrics.samples(DENIALS)} == {reason}
    assert sum(metrics.samples(DENIALS).values()) == len(METHODS)


async def test_an_outage_of_the_issuer_is_no_denial(metrics: MetricsReader) -> None:
    async with open_env(metrics=metrics.rpc) as env:
        env.verifier.answers["good"] = IssuerUnavailable("introspection_timeout")
        assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: sum(metrics.samples(DURATION).values()) == 1)
    assert metrics.samples(DENIALS) == {}


async def test_a_stream_that_is_cut_is_a_denial(metrics: MetricsReader) -> None:
    from tests.support.rpc import principal

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    async with open_env(metrics=metrics.rpc) as env:
        env.verifier.answers["good"] = principal("use:probe", lifetime=0.3)
        env.probe.on_message = wait
        await env.client.outcome("ServerStream", "a")
    assert metrics.value(DENIALS, rpc_method=f"{PROBE}/ServerStream", reason="token_expired") == 1


async def test_a_caller_chooses_no_label(metrics: MetricsReader) -> None:
    async with open_env(metrics=metrics.rpc) as env:
        for path in ("/canary.v1.A/B", "/canary.v1.C/D"):
            code, _, _ = await env.client.outcome(path, "a")
            assert code is grpc.StatusCode.UNIMPLEMENTED
    assert {dict(k)["rpc_method"] for k in metrics.samples(DURATION)} == {"unknown"}
    assert "canary" not in metrics.as_text()


async def test_health_checks_are_not_counted(metrics: MetricsReader) -> None:
    async with open_env(metrics=metrics.rpc) as env:
        await health_pb2_grpc.HealthStub(env.client.channel).Check(health_pb2.HealthCheckRequest())
    assert metrics.samples(DURATION) == {}
