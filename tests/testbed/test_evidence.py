"""What the test bed has seen, and an issuer whose keys and clock change."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import jwt
import pytest

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.bed.report import report
from gatehouse_testbed.bed.service_log import MAX_LINES, ServiceLog
from tests.support.eventually import eventually

Code = grpc.StatusCode
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def call(channel: grpc.aio.Channel, token: str) -> grpc.aio.AioRpcError | None:
    """Call GetCurrentUser in a trace; return how it failed."""
    stub: Any = users_pb2_grpc.UserServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}"), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
    try:
        await stub.GetCurrentUser(users_pb2.GetCurrentUserRequest(), metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def code_of(channel: grpc.aio.Channel, token: str) -> grpc.StatusCode:
    error = await call(channel, token)
    return Code.OK if error is None else error.code()


async def test_spans_and_log_lines_of_a_trace(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    assert await code_of(channel, gatehouse.token("bob")) is Code.OK
    (recorded,) = gatehouse.calls("GetCurrentUser")
    assert recorded.trace_id == TRACE
    (server,) = await eventually(lambda: [x for x in gatehouse.spans(TRACE) if x.kind == "server"])
    assert (server.name, server.parent_id) == (recorded.method, "b7ad6b7169203331")
    assert any(span.parent_id == server.span_id for span in gatehouse.spans(TRACE))
    (line,) = await eventually(lambda: [x for x in gatehouse.logs(TRACE) if x["event"] == "rpc"])
    assert (line["method"], line["code"]) == (server.name, "OK")
    assert gatehouse.spans("0" * 32) == []
    assert gatehouse.spans(name="GetCurrentUser") == gatehouse.spans(TRACE, recorded.method) == [server]
    assert gatehouse.spans(name="CurrentUser") == gatehouse.spans("0" * 32, "GetCurrentUser") == []
    assert gatehouse.logs("0" * 32) == []
    gatehouse.reset()
    assert gatehouse.spans() == []


async def test_report_of_a_failed_test_shows_what_was_seen(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    assert report(gatehouse) == "no call, no request to the issuer, no fault"
    gatehouse.faults.add("GetCurrentUser", code="UNAVAILABLE")
    assert await code_of(channel, gatehouse.token("bob")) is Code.UNAVAILABLE
    await eventually(lambda: [x for x in gatehouse.logs(TRACE) if x["event"] == "rpc"])
    lines = report(gatehouse).splitlines()
    method = "gatehouse.users.v1.UserService/GetCurrentUser"
    assert f"call   {method} by bob: UNAVAILABLE INJECTED_FAULT (trace {TRACE})" in lines
    trace = lines.index(f"trace  {TRACE}")
    assert lines[trace + 1].startswith(f"span     {method} ")
    assert lines[trace + 2].startswith("span       oauth.verify ")
    assert "issuer POST introspection: 200" in lines
    assert any(line.startswith('log    {"') and '"UNAVAILABLE"' in line for line in lines)
    assert lines[-1].startswith("fault  fault-")
    ended = Testbed({**gatehouse.description, "control_url": "http://127.0.0.1:1"})
    assert report(ended).startswith("the test bed does not answer (ConnectError)")
    ended.close()


def test_refused_request_to_the_issuer_is_shown_with_its_reason(gatehouse_issuer: Testbed) -> None:
    url = f"{gatehouse_issuer.issuer}/protocol/openid-connect/token"
    with httpx.Client(trust_env=False, headers={"user-agent": "my-gateway"}) as http:
        http.post(url, data={"grant_type": "password", "client_id": "nobody"})
        http.get(f"{gatehouse_issuer.issuer}/protocol/openid-connect/auth")
    refused, page = gatehouse_issuer.issuer_requests()
    assert (refused.status, refused.user_agent) == (401, "my-gateway")
    assert refused.error.startswith("invalid_client: ")
    assert (page.status, page.error) == (400, "")
    assert report(gatehouse_issuer).splitlines() == [
        f"issuer POST token: 401 {refused.error}",
        "issuer GET authorization: 400",
    ]


async def test_call_that_runs_during_a_reset_is_not_recorded(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    """Otherwise the next test would see a call of the last one."""
    gatehouse.faults.add("GetCurrentUser", delay_seconds=0.3, times=1)
    running = asyncio.create_task(code_of(channel, gatehouse.token("bob")))
    await eventually(lambda: gatehouse.issuer_requests("introspection"))
    gatehouse.reset()
    assert await running is Code.OK
    assert await code_of(channel, gatehouse.token("alice")) is Code.OK
    await eventually(lambda: [x for x in gatehouse.logs() if x["event"] == "rpc"])
    assert [x.caller for x in gatehouse.calls("GetCurrentUser")] == ["alice"]
    assert len(gatehouse.spans(name="GetCurrentUser")) == 1
    assert len([x for x in gatehouse.logs() if x["event"] == "rpc"]) == 1


def write_lines(descriptor: int, *lines: str) -> None:
    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())


async def test_log_keeps_the_newest_lines_and_counts_what_is_not_json(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC).isoformat()
    with (tmp_path / "output").open("w") as output:
        log = ServiceLog(output.fileno())
        lines = [json.dumps({"event": str(number), "timestamp": now}) for number in range(MAX_LINES)]
        write_lines(
            output.fileno(), "{", "[]", '"text"', "{}", "printed \udcff".encode("utf-8", "replace").decode()
        )
        await eventually(lambda: [line.get("count") for line in log.lines()] == [5])
        for first in range(0, MAX_LINES, 100):
            write_lines(output.fileno(), *lines[first : first + 100])
        await eventually(lambda: "count" not in log.lines()[-1])
        assert [line["event"] for line in log.lines()] == [str(number) for number in range(MAX_LINES)]
        write_lines(output.fileno(), "x" * 100_000)
        await eventually(lambda: log.lines()[-1].get("count") == 2)
        assert log.lines("0" * 32) == []
        log.clear()
        assert log.lines() == []


@pytest.mark.parametrize("overlap", [True, False])
async def test_rotated_keys(gatehouse: Testbed, channel: grpc.aio.Channel, overlap: bool) -> None:
    def published() -> set[str]:
        with httpx.Client(trust_env=False) as http:
            keys = http.get(f"{gatehouse.issuer}/protocol/openid-connect/certs").json()["keys"]
        return {key["kid"] for key in keys}

    before, old = published(), gatehouse.token("bob")
    assert await code_of(channel, old) is Code.OK
    gatehouse.rotate_keys(overlap=overlap)
    after, new = published(), gatehouse.token("bob")
    assert before < after if overlap else before.isdisjoint(after)
    assert jwt.get_unverified_header(new)["kid"] in after - before
    assert await code_of(channel, new) is Code.OK
    assert await code_of(channel, old) is (Code.OK if overlap else Code.UNAUTHENTICATED)
    gatehouse.rotate_keys(overlap=overlap)
    assert before.isdisjoint(published())
    gatehouse.reset()
    assert published() == before


async def test_clock_of_the_issuer_is_wrong(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    right = jwt.decode(gatehouse.token("bob"), options={"verify_signature": False})
    gatehouse.clock.skew_issuer(-3600)
    slow = gatehouse.token("bob")
    claims = jwt.decode(slow, options={"verify_signature": False})
    assert claims["iat"] - right["iat"] == pytest.approx(-3600, abs=60)
    assert await code_of(channel, slow) is Code.UNAUTHENTICATED
    gatehouse.reset()
    assert await code_of(channel, gatehouse.token("bob")) is Code.OK
