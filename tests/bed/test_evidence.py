"""What the test bed has seen, and an issuer whose keys and clock change."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import httpx
import jwt
import pytest

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed
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
    assert gatehouse.logs("0" * 32) == []
    gatehouse.reset()
    assert gatehouse.spans() == []


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
