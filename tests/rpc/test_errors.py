"""Errors of handlers become statuses that help the caller and contain nothing confidential."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from gatehouse import domain
from gatehouse.rpc import Service
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from tests.support.eventually import eventually
from tests.support.rpc import (
    METHODS,
    PROBE,
    Env,
    Text,
    details_of,
    error_info,
    open_env,
    principal,
    reached,
    service_of,
)

CANARY = "canary-in-an-exception"
DOMAIN: list[tuple[domain.DomainError, grpc.StatusCode]] = [
    (domain.InvalidArgument("user.email", "EMAIL_BAD", "no such address"), grpc.StatusCode.INVALID_ARGUMENT),
    (domain.NotFound("USER_NOT_FOUND", "user not found"), grpc.StatusCode.NOT_FOUND),
    (domain.AlreadyExists("EMAIL_TAKEN", "the address is taken"), grpc.StatusCode.ALREADY_EXISTS),
    (domain.Aborted("ETAG_MISMATCH", "read it again"), grpc.StatusCode.ABORTED),
    (domain.FailedPrecondition("LAST_ADMIN", "one must stay"), grpc.StatusCode.FAILED_PRECONDITION),
    (domain.OutOfRange("POSITION_GONE", "start again"), grpc.StatusCode.OUT_OF_RANGE),
    (domain.Unavailable("DATABASE_UNAVAILABLE", "retry later"), grpc.StatusCode.UNAVAILABLE),
    (domain.DomainError("RULE_BROKEN", "it cannot be"), grpc.StatusCode.FAILED_PRECONDITION),
]


def raising(error: BaseException) -> Any:
    async def fail(*_: object) -> None:
        raise error

    return fail


async def failed_call(env: Env, name: str = "Unary", *values: str, **more: Any) -> Any:
    """Make a call that fails, and return it when it has ended."""
    call = env.client.call(name, *(values or ("a",)), **more)
    async with asyncio.timeout(10):
        if name in {"ServerStream", "ServerStreamByWrite", "BidiStream"}:
            with suppress(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
        await call.code()
    return call


@pytest.mark.parametrize(("error", "code"), DOMAIN, ids=lambda value: getattr(value, "reason", None))
@pytest.mark.parametrize("name", ["Unary", "BidiStream"])
async def test_a_domain_error_has_a_code_a_message_and_a_reason(
    env: Env, name: str, error: domain.DomainError, code: grpc.StatusCode
) -> None:
    env.probe.on_message = raising(error)
    call = await failed_call(env, name)
    assert (await call.code(), await call.details()) == (code, error.message)
    assert error_info(await call.trailing_metadata()).reason == error.reason
    assert (await env.line())["reason"] == error.reason


async def test_an_invalid_argument_names_its_field(env: Env) -> None:
    env.probe.on_message = raising(domain.InvalidArgument("user.email", "EMAIL_BAD", "no such address"))
    call = await failed_call(env)
    (violation,) = details_of(await call.trailing_metadata())[1].field_violations
    assert (violation.field, violation.reason, violation.description) == (
        "user.email",
        "EMAIL_BAD",
        "no such address",
    )


@pytest.mark.parametrize("name", METHODS)
async def test_an_unexpected_error_is_internal_and_reveals_nothing(env: Env, name: str) -> None:
    env.probe.on_message = raising(ValueError(CANARY))
    call = await failed_call(env, name)
    trailers = await call.trailing_metadata()
    assert await call.code() is grpc.StatusCode.INTERNAL
    assert CANARY not in f"{await call.details()} {trailers} {env.log}"


async def test_response_and_log_have_the_same_error_id(env: Env) -> None:
    env.probe.on_message = raising(ValueError(CANARY))
    call = await failed_call(env)
    error_id = error_info(await call.trailing_metadata()).metadata["error_id"]
    assert await call.details() == f"internal error {error_id}"
    detail = next(line for line in env.log if line["event"] == "unexpected error")
    assert (detail["level"], detail["error_id"]) == ("error", error_id)
    assert detail["method"] == f"{PROBE}/Unary"
    assert detail["error_type"] == "builtins.ValueError"
    assert (await env.line())["error_id"] == error_id


async def test_the_log_has_the_place_of_an_unexpected_error(env: Env) -> None:
    def deep() -> None:
        raise KeyError(CANARY)

    async def fail(*_: object) -> None:
        deep()

    env.probe.on_message = fail
    await failed_call(env)
    detail = next(line for line in env.log if line["event"] == "unexpected error")
    place, _, line = detail["error_at"].rpartition(":")
    assert (place.startswith("gatehouse.rpc."), line.isdecimal()) == (True, True)


async def test_each_unexpected_error_has_its_own_id(env: Env) -> None:
    env.probe.on_message = raising(ValueError(CANARY))
    await failed_call(env)
    await failed_call(env)
    assert len({line["error_id"] for line in env.lines()}) == 2


@pytest.mark.parametrize("name", ["ServerStream", "ServerStreamByWrite", "BidiStream"])
async def test_an_error_after_responses_ends_the_stream_with_its_code(env: Env, name: str) -> None:
    async def fail_late(request: Text, context: Any) -> None:
        if name != "BidiStream":
            await context.write(Text(value="first"))
        if name != "BidiStream" or request.value == "second":
            raise domain.OutOfRange("POSITION_GONE", "start again")

    env.probe.on_message = fail_late
    requests = ["first", "second"] if name == "BidiStream" else ["a"]
    code, trailers, responses = await env.client.outcome(name, *requests)
    assert (code, responses) == (grpc.StatusCode.OUT_OF_RANGE, ["first"])
    assert error_info(trailers).reason == "POSITION_GONE"


async def test_a_response_that_is_not_a_message_is_internal() -> None:
    async def return_nothing(request: Text, context: object) -> None: ...

    async with open_env(services=[service_of("probe.v1.Empty", Call=return_nothing)]) as env:
        code, trailers, _ = await env.client.outcome("/probe.v1.Empty/Call", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_abort_sets_code_message_and_trailers(env: Env) -> None:
    async def abort(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-where", "here"),))

    env.probe.on_message = abort
    for name in METHODS:
        call = await failed_call(env, name)
        assert (await call.code(), await call.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
        assert ("x-where", "here") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("name", METHODS)
async def test_abort_takes_effect_without_await(env: Env, name: str) -> None:
    async def abort(_: object, context: Any) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    env.probe.on_message = abort
    code, _, responses = await env.client.outcome(name, "a")
    assert (code, responses) == (grpc.StatusCode.NOT_FOUND, [])


async def test_abort_takes_effect_when_its_exception_is_caught(env: Env) -> None:
    async def abort(_: object, context: Any) -> None:
        with pytest.raises(Exception, match="NOT_FOUND"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    env.probe.on_message = abort
    assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.NOT_FOUND


async def test_abort_with_ok_is_internal(env: Env) -> None:
    async def abort(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.OK)

    env.probe.on_message = abort
    assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.INTERNAL


async def test_abort_with_status_sets_code_message_and_trailers(env: Env) -> None:
    class Gone(grpc.Status):
        code = grpc.StatusCode.NOT_FOUND
        details = "gone"
        trailing_metadata = (("x-where", "here"),)

    async def abort(_: object, context: Any) -> None:
        await context.abort_with_status(Gone())

    env.probe.on_message = abort
    call = await failed_call(env)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert ("x-where", "here") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("name", METHODS)
async def test_set_code_and_set_details_end_the_call_with_them(env: Env, name: str) -> None:
    async def set_status(_: object, context: Any) -> None:
        assert context.code() is grpc.StatusCode.OK
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("changed meanwhile")
        assert (context.code(), context.details()) == (grpc.StatusCode.ABORTED, "changed meanwhile")

    env.probe.on_message = set_status
    call = await failed_call(env, name)
    assert (await call.code(), await call.details()) == (
        grpc.StatusCode.ABORTED,
        "changed meanwhile",
    )
    assert (await env.line())["code"] == "ABORTED"


async def test_trailers_are_sent_with_success_and_failure(env: Env) -> None:
    async def set_trailers(request: Text, context: Any) -> None:
        context.set_trailing_metadata((("x-cost", "3"),))
        assert context.trailing_metadata() == (("x-cost", "3"),)
        if request.value == "fail":
            raise domain.NotFound("USER_NOT_FOUND", "user not found")

    env.probe.on_message = set_trailers
    for value in ("a", "fail"):
        assert (await env.client.outcome("Unary", value))[1]["x-cost"] == "3"


async def test_a_failure_has_the_request_id(env: Env) -> None:
    _, trailers, _ = await env.client.outcome("Unary", "a", token=None)
    assert trailers["x-request-id"] == (await env.line())["request_id"]


@pytest.mark.parametrize("name", METHODS)
async def test_cancellation_by_the_client_cancels_the_handler(env: Env, name: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    env.probe.on_message = wait
    call = env.client.call(name, "a")
    reading = asyncio.ensure_future(call.read() if hasattr(call, "read") else call.code())
    async with asyncio.timeout(10):
        await begun.wait()
        call.cancel()
        await ended.wait()
        await asyncio.wait({reading})
        line = await env.line()
    assert (line["code"], line["level"]) == ("CANCELLED", "info")


def open_client_stream(env: Env, name: str, timeout: float) -> Any:
    channel = env.client.channel
    stub: Any = (channel.stream_unary if name == "ClientStream" else channel.stream_stream)(
        f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString
    )
    return stub(metadata=(("authorization", "Bearer good"),), timeout=timeout)


@pytest.mark.parametrize("name", ["ClientStream", "BidiStream"])
async def test_a_cancelled_request_stream_does_not_look_complete(env: Env, name: str) -> None:
    """gRPC reports both ends alike; the handler of an import would keep half of it."""
    for round_ in range(1, 21):
        call = open_client_stream(env, name, 30)
        await call.write(Text(value="a"))
        await reached(lambda: len(env.probe.handled), round_)
        call.cancel()
        await reached(lambda: len(env.lines()), round_)
    assert {line["code"] for line in env.lines()} == {"CANCELLED"}
    assert env.probe.completed == 0


async def test_a_request_stream_after_its_deadline_does_not_look_complete(env: Env) -> None:
    call = open_client_stream(env, "ClientStream", 0.3)
    await call.write(Text(value="a"))
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    line = await env.line()
    assert line["code"] in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert env.probe.completed == 0


async def test_a_request_stream_with_an_oversize_message_does_not_look_complete() -> None:
    async with open_env(max_message_bytes=1024) as env:
        code, _, _ = await env.client.outcome("ClientStream", "a", "x" * 2000, "b")
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await env.line()
        assert (env.probe.handled, env.probe.completed) == (["a"], 0)


async def test_a_request_stream_that_was_closed_is_complete(env: Env) -> None:
    assert (await env.client.outcome("ClientStream", "a", "b"))[2] == ["a,b"]
    assert env.probe.completed == 1


async def test_an_empty_request_stream_is_complete(env: Env) -> None:
    assert (await env.client.outcome("ClientStream"))[2] == [""]


async def test_a_cancelled_task_in_a_handler_is_internal(env: Env) -> None:
    """gRPC would send no response at all."""

    async def await_cancelled_task(*_: object) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    env.probe.on_message = await_cancelled_task
    call = await failed_call(env, timeout=60.0)
    assert await call.code() is grpc.StatusCode.INTERNAL


async def test_an_error_after_the_deadline_is_deadline_exceeded(env: Env) -> None:
    async def outlive(_: object, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await eventually(lambda: context.time_remaining() == 0)
            raise ValueError(CANARY) from None

    env.probe.on_message = outlive
    assert (await env.client.outcome("Unary", "a", timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    line = await env.line()
    assert (line["code"], line["reason"]) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert CANARY not in str(env.log)


@pytest.mark.parametrize("name", ["Unary", "ServerStream"])
async def test_a_malformed_request_is_an_invalid_argument(env: Env, name: str) -> None:
    stub: Any = env.client.channel.stream_stream(f"/{PROBE}/{name}")
    call = stub([b"\xff\xff\xff"], metadata=(("authorization", "Bearer good"),), timeout=10)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(await call.trailing_metadata()).reason == "REQUEST_MALFORMED"
    assert env.probe.handled == []


async def test_a_unary_call_without_a_request_is_unimplemented(env: Env) -> None:
    stub: Any = env.client.channel.stream_unary(f"/{PROBE}/Unary")
    call = stub([], metadata=(("authorization", "Bearer good"),), timeout=10)
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert env.probe.handled == []


async def test_rpc_that_a_servicer_does_not_implement_is_unimplemented() -> None:
    servicer: Any = users_pb2_grpc.UserServiceServicer
    service = Service(users_pb2_grpc.add_UserServiceServicer_to_server, servicer())
    async with open_env(services=[service]) as env:
        env.verifier.answers["reader"] = principal("read:users")
        stub = users_pb2_grpc.UserServiceStub(env.client.channel)
        metadata = (("authorization", "Bearer reader"),)
        unary = stub.CountUsers(users_pb2.CountUsersRequest(), metadata=metadata)
        stream = stub.WatchUsers(users_pb2.WatchUsersRequest(), metadata=metadata)
        without_token = stub.CountUsers(users_pb2.CountUsersRequest())
        assert await unary.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await without_token.code() is grpc.StatusCode.UNAUTHENTICATED
