"""OAuth2ServerInterceptor on a synchronous server; test_authorization.py tests both kinds of server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gatehouse import domain
from gatehouse.background import BackgroundLoop
from gatehouse.rpc import AccessRule, PolicyError, PolicyOptions, current_principal
from gatehouse.rpc.sync import OAuth2ServerInterceptor
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from tests.support.eventually import eventually
from tests.support.rpc import PROBE, Env, TableVerifier, error_info, line_keeper, principal
from tests.support.sync_server import open_sync_env

USERS = "gatehouse.users.v1.UserService"


@pytest.fixture
async def env() -> AsyncIterator[Env]:
    """A synchronous server with the probe service."""
    async with open_sync_env() as opened:
        yield opened


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    """A running event loop."""
    with BackgroundLoop() as running:
        yield running


async def test_calls_are_verified_at_the_same_time(env: Env) -> None:
    barrier = asyncio.Barrier(12)  # all calls must be there before one of them is verified

    async def wait_for_the_others(_: str) -> None:
        await barrier.wait()

    env.verifier.before = wait_for_the_others
    outcomes = await asyncio.gather(*(env.client.outcome("Unary", str(number)) for number in range(12)))
    assert {code for code, _, _ in outcomes} == {grpc.StatusCode.OK}


async def test_call_whose_verification_hangs_does_not_hold_up_others(env: Env) -> None:
    released = asyncio.Event()
    background: list[asyncio.AbstractEventLoop] = []

    async def hang(token: str) -> None:
        if token == "slow":
            background.append(asyncio.get_running_loop())
            await released.wait()

    env.verifier.before = hang
    env.verifier.answers["slow"] = principal("use:probe")
    slow = [asyncio.create_task(env.client.outcome("Unary", "a", token="slow")) for _ in range(8)]
    await eventually(lambda: len(background) == len(slow))
    assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.OK
    background[0].call_soon_threadsafe(released.set)
    assert {code for code, _, _ in await asyncio.gather(*slow)} == {grpc.StatusCode.OK}


@pytest.mark.parametrize("name", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
async def test_domain_error_of_a_handler_becomes_its_status(env: Env, name: str) -> None:
    async def refuse(*_: object) -> None:
        raise domain.NotFound("USER_NOT_FOUND", "no such user")

    env.probe.on_message = refuse
    code, trailers, _ = await env.client.outcome(name, "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    assert (await env.line())["reason"] == "USER_NOT_FOUND"


@pytest.mark.parametrize("name", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
async def test_text_of_an_unexpected_error_reaches_no_caller_and_no_log(
    env: Env, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("canary")

    env.probe.on_message = fail
    call = env.client.call(name, "a")
    code, trailers = await call.code(), dict(await call.trailing_metadata())
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "canary" not in str(trailers) + await call.details() + str(env.log) + caplog.text


async def test_handler_can_abort_a_call_and_set_a_status(env: Env) -> None:
    async def abort(request: Any, context: Any) -> None:
        if request.value == "abort":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", (("x-why", "because"),))
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("a part is missing")

    env.probe.on_message = abort
    call = env.client.call("Unary", "abort")
    assert (await call.code(), await call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
    assert dict(await call.trailing_metadata())["x-why"] == "because"
    call = env.client.call("Unary", "set")
    assert (await call.code(), await call.details()) == (grpc.StatusCode.DATA_LOSS, "a part is missing")


async def test_handler_sees_metadata_without_credentials_and_its_principal(env: Env) -> None:
    seen: list[Any] = []

    async def look(_: object, context: Any) -> None:
        seen.append((dict(context.invocation_metadata()), current_principal().subject))

    env.probe.on_message = look
    metadata = (("authorization", "Bearer good"), ("x-tenant", "a"))
    for name in ("Unary", "ServerStream", "ClientStream", "BidiStream"):
        await env.client.outcome(name, "a", metadata=metadata)
    assert [subject for _, subject in seen] == ["subject-of-alice"] * 4
    assert all("authorization" not in entries and entries["x-tenant"] == "a" for entries, _ in seen)


async def test_unary_call_without_a_request_is_refused(env: Env) -> None:
    stub: Any = env.client.channel.stream_unary(f"/{PROBE}/Unary")
    call = stub(iter(()), metadata=(("authorization", "Bearer good"),), timeout=60)
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_malformed_request_is_an_invalid_argument(env: Env) -> None:
    stub: Any = env.client.channel.unary_unary(f"/{PROBE}/Unary")
    call = stub(b"\xff\xff", metadata=(("authorization", "Bearer good"),), timeout=60)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_rpc_without_a_rule_is_unimplemented() -> None:
    with BackgroundLoop() as background, ThreadPoolExecutor(2) as pool:
        interceptor = OAuth2ServerInterceptor(TableVerifier(), background, [], logger=line_keeper([]))
        server = grpc.server(pool, interceptors=[interceptor])
        users_pb2_grpc.add_UserServiceServicer_to_server(Users(), server)  # type: ignore[abstract] # one RPC is enough
        async with served(server) as channel:
            call = users_pb2_grpc.UserServiceStub(channel).CountUsers(users_pb2.CountUsersRequest())
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


class Users(users_pb2_grpc.UserServiceServicer):
    """UserService with one synchronous handler."""

    def CountUsers(self, request: Any, context: Any) -> Any:  # noqa: N802 - as generated
        """Return the number of users."""
        return users_pb2.CountUsersResponse()


class served:  # noqa: N801 - used like a function
    """A channel to a synchronous server that runs until the context ends."""

    def __init__(self, server: grpc.Server) -> None:
        self._server = server
        self._port = server.add_insecure_port("127.0.0.1:0")

    async def __aenter__(self) -> grpc.aio.Channel:
        self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}")
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        await asyncio.to_thread(self._server.stop(0).wait)


async def test_rules_come_from_the_protos_and_health_checks_are_public(background: BackgroundLoop) -> None:
    verifier = TableVerifier()
    verifier.answers |= {"reader": principal("read:users"), "weak": principal("write:users")}
    services = [USERS, "grpc.health.v1.Health"]
    interceptor = OAuth2ServerInterceptor(verifier, background, services, logger=line_keeper([]))
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[interceptor])
        users_pb2_grpc.add_UserServiceServicer_to_server(Users(), server)  # type: ignore[abstract] # one RPC is enough
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        async with served(server) as channel:
            users, codes = users_pb2_grpc.UserServiceStub(channel), {}
            for token in ("reader", "weak", "unknown"):
                metadata = (("authorization", f"Bearer {token}"),)
                call = users.CountUsers(users_pb2.CountUsersRequest(), metadata=metadata)
                codes[token] = (await call.code()).name
            assert codes == {"reader": "OK", "weak": "PERMISSION_DENIED", "unknown": "UNAUTHENTICATED"}
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("services", "policy", "problem"),
    [
        (["no.such.Service"], None, "no.such.Service: unknown service; import its generated module first"),
        (["grpc.reflection.v1alpha.ServerReflection"], None, "has no access rule"),
        ([USERS], PolicyOptions({f"{USERS}/GetUsr": ["read:users"]}), "access rule for an unknown RPC"),
        ([], PolicyOptions({"a.B/C": AccessRule()}), "the access rule is empty"),
    ],
)
def test_invalid_policy_is_an_error_at_start(
    services: list[str], policy: PolicyOptions | None, problem: str, background: BackgroundLoop
) -> None:
    with pytest.raises(PolicyError, match=problem):
        OAuth2ServerInterceptor(TableVerifier(), background, services, logger=line_keeper([]), policy=policy)


async def test_call_after_the_end_of_the_background_loop_is_unavailable() -> None:
    with ThreadPoolExecutor(2) as pool:
        with BackgroundLoop() as background:
            interceptor = OAuth2ServerInterceptor(
                TableVerifier(), background, [USERS], logger=line_keeper([])
            )
        server = grpc.server(pool, interceptors=[interceptor])
        users_pb2_grpc.add_UserServiceServicer_to_server(Users(), server)  # type: ignore[abstract] # one RPC is enough
        async with served(server) as channel:
            call = users_pb2_grpc.UserServiceStub(channel).CountUsers(users_pb2.CountUsersRequest())
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "the server is stopping"


def test_background_loop_must_be_running() -> None:
    with pytest.raises(RuntimeError, match="use it in a `with` statement"):
        BackgroundLoop().run(asyncio.sleep(0))


def test_end_of_the_background_loop_cancels_what_runs() -> None:
    with BackgroundLoop() as background:
        waiting = background.submit(asyncio.Event().wait())
    assert waiting.cancelled()
