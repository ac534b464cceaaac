"""How a call ended: headers, trailers and details."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2

from gatehouse.client.calls import Outcome, call_once
from gatehouse.client.requests import find_method
from gatehouse.users.v1 import users_pb2

SERVICE = users_pb2.DESCRIPTOR.services_by_name["UserService"]
UNKNOWN = any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"\1")


class Users:
    """Sends metadata and details of every kind."""

    async def get(self, request: users_pb2.GetUserRequest, context: Any) -> users_pb2.User:
        await context.send_initial_metadata([("head", "1"), ("head-bin", b"\xff")])
        if request.user_id:
            details = b"\xff" if request.user_id == "malformed" else status_pb2.Status(details=[UNKNOWN])
            content = details if isinstance(details, bytes) else details.SerializeToString()
            await context.abort(grpc.StatusCode.NOT_FOUND, "no", (("grpc-status-details-bin", content),))
        context.set_trailing_metadata([("tail", "2")])
        return users_pb2.User()

    async def watch(self, request: Any, context: Any) -> AsyncIterator[users_pb2.WatchUsersResponse]:
        await context.send_initial_metadata([("head", "1")])
        yield users_pb2.WatchUsersResponse()
        context.set_trailing_metadata([("tail", "2")])


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server, users = grpc.aio.server(), Users()
    handlers = {
        "GetUser": grpc.unary_unary_rpc_method_handler(
            users.get, users_pb2.GetUserRequest.FromString, users_pb2.User.SerializeToString
        ),
        "WatchUsers": grpc.unary_stream_rpc_method_handler(
            users.watch, None, users_pb2.WatchUsersResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


async def get(channel: grpc.aio.Channel, user_id: str) -> Outcome:
    request = users_pb2.GetUserRequest(user_id=user_id)
    return await call_once(channel, find_method(SERVICE, "GetUser"), [request])


async def test_headers_and_trailers_of_a_call_that_succeeds(channel: grpc.aio.Channel) -> None:
    outcome = await get(channel, "")
    assert outcome.code is grpc.StatusCode.OK
    assert outcome.headers == (("head", "1"), ("head-bin", b"\xff"))
    assert outcome.trailers == (("tail", "2"),)
    watch = find_method(SERVICE, "WatchUsers")
    outcome = await call_once(channel, watch, [users_pb2.WatchUsersRequest()])
    assert (outcome.headers, outcome.trailers) == ((("head", "1"),), (("tail", "2"),))


async def test_headers_and_details_of_a_call_that_fails(channel: grpc.aio.Channel) -> None:
    outcome = await get(channel, "unknown")
    assert (outcome.code, outcome.message) == (grpc.StatusCode.NOT_FOUND, "no")
    assert outcome.details == (UNKNOWN,)
    assert ("head", "1") in outcome.headers


async def test_malformed_details_do_not_hide_the_status(channel: grpc.aio.Channel) -> None:
    outcome = await get(channel, "malformed")
    assert (outcome.code, outcome.details) == (grpc.StatusCode.NOT_FOUND, ())
