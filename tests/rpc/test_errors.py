"""Whatever goes wrong in a handler becomes one status that helps the caller and tells nothing else."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from gatehouse import domain
from gatehouse.rpc import ServerLimits
from tests.support.rpc import (
    PROBE,
    SHAPES,
    Stand,
    Text,
    details_of,
    error_info,
    eventually,
    reached,
    service_of,
)

CANARY = "canary-in-an-exception"
DOMAIN: list[tuple[domain.DomainError, grpc.StatusCode]] = [
    (domain.InvalidArgument("user.email", "EMAIL_BAD", "no such address"), grpc.StatusCode.INVALID_ARGUMENT),
    (domain.NotFound("USER_NOT_FOUND", "there is no such user"), grpc.StatusCode.NOT_FOUND),
    (domain.AlreadyExists("EMAIL_TAKEN", "the address is taken"), grpc.StatusCode.ALREADY_EXISTS),
    (domain.Aborted("ETAG_MISMATCH", "read it again"), grpc.StatusCode.ABORTED),
    (domain.FailedPrecondition("LAST_ADMIN", "one must stay"), grpc.StatusCode.FAILED_PRECONDITION),
    (domain.OutOfRange("POSITION_GONE", "begin anew"), grpc.StatusCode.OUT_OF_RANGE),
    (domain.Unavailable("DATABASE_AWAY", "try again"), grpc.StatusCode.UNAVAILABLE),
    (domain.DomainError("RULE_BROKEN", "it cannot be"), grpc.StatusCode.FAILED_PRECONDITION),
]


def raising(error: BaseException) -> Any:
    async def fail(*_: object) -> None:
        raise error

    return fail


async def ending(stand: Stand, name: str = "OneOne", *values: str, **more: Any) -> Any:
    """Makes a call that fails, and returns how it did."""
    call = stand.client.call(name, *(values or ("a",)), **more)
    async with asyncio.timeout(10):
        if name in {"OneMany", "OneManyByWrite", "ManyMany"}:
            with suppress(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
        await call.code()
    return call


@pytest.mark.parametrize(("error", "code"), DOMAIN, ids=lambda value: getattr(value, "reason", None))
@pytest.mark.parametrize("name", ["OneOne", "ManyMany"])
async def test_a_domain_error_has_its_code_its_text_and_its_reason(
    stand: Stand, name: str, error: domain.DomainError, code: grpc.StatusCode
) -> None:
    stand.probe.on_message = raising(error)
    call = await ending(stand, name)
    assert (await call.code(), await call.details()) == (code, error.message)
    assert error_info(await call.trailing_metadata()).reason == error.reason
    assert (await stand.line())["reason"] == error.reason


async def test_an_invalid_argument_names_its_field(stand: Stand) -> None:
    stand.probe.on_message = raising(domain.InvalidArgument("user.email", "EMAIL_BAD", "no such address"))
    call = await ending(stand)
    (violation,) = details_of(await call.trailing_metadata())[1].field_violations
    assert (violation.field, violation.reason, violation.description) == (
        "user.email",
        "EMAIL_BAD",
        "no such address",
    )


@pytest.mark.parametrize("name", SHAPES)
async def test_an_unexpected_error_is_internal_and_shows_nothing(stand: Stand, name: str) -> None:
    stand.probe.on_message = raising(ValueError(CANARY))
    call = await ending(stand, name)
    trailers = await call.trailing_metadata()
    assert await call.code() is grpc.StatusCode.INTERNAL
    assert CANARY not in f"{await call.details()} {trailers} {stand.log}"


async def test_the_error_id_of_an_answer_is_the_one_of_the_log(stand: Stand) -> None:
    stand.probe.on_message = raising(ValueError(CANARY))
    call = await ending(stand)
    error_id = error_info(await call.trailing_metadata()).metadata["error_id"]
    assert await call.details() == f"internal error {error_id}"
    detail = next(line for line in stand.log if line["event"] == "unexpected error")
    assert (detail["level"], detail["error_id"]) == ("error", error_id)
    assert detail["method"] == f"{PROBE}/OneOne"
    assert detail["error_type"] == "builtins.ValueError"
    assert (await stand.line())["error_id"] == error_id


async def test_the_log_says_where_an_unexpected_error_came_from(stand: Stand) -> None:
    def deep() -> None:
        raise KeyError(CANARY)

    async def fail(*_: object) -> None:
        deep()

    stand.probe.on_message = fail
    await ending(stand)
    detail = next(line for line in stand.log if line["event"] == "unexpected error")
    place, _, line = detail["error_at"].rpartition(":")
    assert (place.startswith("gatehouse.rpc."), line.isdecimal()) == (True, True)


async def test_two_unexpected_errors_have_two_ids(stand: Stand) -> None:
    stand.probe.on_message = raising(ValueError(CANARY))
    await ending(stand)
    await ending(stand)
    assert len({line["error_id"] for line in stand.lines()}) == 2


@pytest.mark.parametrize("name", ["OneMany", "OneManyByWrite", "ManyMany"])
async def test_an_error_after_answers_ends_the_stream_with_its_code(stand: Stand, name: str) -> None:
    """What was sent stays sent; the status says that it was not all."""

    async def fail_late(request: Text, context: Any) -> None:
        if name != "ManyMany":
            await context.write(Text(value="first"))
        if name != "ManyMany" or request.value == "second":
            raise domain.OutOfRange("POSITION_GONE", "begin anew")

    stand.probe.on_message = fail_late
    requests = ["first", "second"] if name == "ManyMany" else ["a"]
    code, trailers, answers = await stand.client.outcome(name, *requests)
    assert (code, answers) == (grpc.StatusCode.OUT_OF_RANGE, ["first"])
    assert error_info(trailers).reason == "POSITION_GONE"


async def test_an_answer_that_is_no_message_is_internal(open_stand: Any) -> None:
    async def answer_nothing(request: Text, context: object) -> None: ...

    async with open_stand(services=[service_of("probe.v1.Empty", Call=answer_nothing)]) as stand:
        code, trailers, _ = await stand.client.outcome("/probe.v1.Empty/Call", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


# Statuses that a handler makes itself.


async def test_an_abort_has_its_code_text_and_trailers(stand: Stand) -> None:
    async def abort(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-where", "here"),))

    stand.probe.on_message = abort
    for name in SHAPES:
        call = await ending(stand, name)
        assert (await call.code(), await call.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
        assert ("x-where", "here") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("name", SHAPES)
async def test_an_abort_takes_hold_when_its_await_was_forgotten(stand: Stand, name: str) -> None:
    async def abort(_: object, context: Any) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    stand.probe.on_message = abort
    code, _, answers = await stand.client.outcome(name, "a")
    assert (code, answers) == (grpc.StatusCode.NOT_FOUND, [])


async def test_an_abort_takes_hold_when_it_was_caught(stand: Stand) -> None:
    async def abort(_: object, context: Any) -> None:
        with pytest.raises(Exception, match="NOT_FOUND"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    stand.probe.on_message = abort
    assert (await stand.client.outcome("OneOne", "a"))[0] is grpc.StatusCode.NOT_FOUND


async def test_an_abort_with_ok_is_a_mistake_and_no_success(stand: Stand) -> None:
    async def abort(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.OK)

    stand.probe.on_message = abort
    assert (await stand.client.outcome("OneOne", "a"))[0] is grpc.StatusCode.INTERNAL


async def test_an_abort_with_status_is_an_abort(stand: Stand) -> None:
    class Gone(grpc.Status):
        code = grpc.StatusCode.NOT_FOUND
        details = "gone"
        trailing_metadata = (("x-where", "here"),)

    async def abort(_: object, context: Any) -> None:
        await context.abort_with_status(Gone())

    stand.probe.on_message = abort
    call = await ending(stand)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert ("x-where", "here") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("name", SHAPES)
async def test_a_code_that_was_set_is_the_code_of_the_call(stand: Stand, name: str) -> None:
    async def set_it(_: object, context: Any) -> None:
        assert context.code() is grpc.StatusCode.OK
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("another was first")
        assert (context.code(), context.details()) == (grpc.StatusCode.ABORTED, "another was first")

    stand.probe.on_message = set_it
    call = await ending(stand, name)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.ABORTED, "another was first")
    assert (await stand.line())["code"] == "ABORTED"


async def test_trailers_that_were_set_come_with_success_and_with_failure(stand: Stand) -> None:
    async def set_them(request: Text, context: Any) -> None:
        context.set_trailing_metadata((("x-cost", "3"),))
        assert context.trailing_metadata() == (("x-cost", "3"),)
        if request.value == "fail":
            raise domain.NotFound("USER_NOT_FOUND", "there is no such user")

    stand.probe.on_message = set_them
    for value in ("a", "fail"):
        assert (await stand.client.outcome("OneOne", value))[1]["x-cost"] == "3"


async def test_every_failure_carries_the_request_id(stand: Stand) -> None:
    _, trailers, _ = await stand.client.outcome("OneOne", "a", token=None)
    assert trailers["x-request-id"] == (await stand.line())["request_id"]


# Calls that break off.


@pytest.mark.parametrize("name", SHAPES)
async def test_a_caller_that_goes_away_cancels_the_handler(stand: Stand, name: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stand.probe.on_message = wait
    call = stand.client.call(name, "a")
    reading = asyncio.ensure_future(call.read() if hasattr(call, "read") else call.code())
    async with asyncio.timeout(10):
        await begun.wait()
        call.cancel()
        await ended.wait()
        await asyncio.wait({reading})
        line = await stand.line()
    assert (line["code"], line["level"]) == ("CANCELLED", "info")


def open_client_stream(stand: Stand, name: str, timeout: float) -> Any:
    channel = stand.client.channel
    stub: Any = (channel.stream_unary if name == "ManyOne" else channel.stream_stream)(
        f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString
    )
    return stub(metadata=(("authorization", "Bearer good"),), timeout=timeout)


@pytest.mark.parametrize("name", ["ManyOne", "ManyMany"])
async def test_a_request_stream_that_was_cancelled_is_not_taken_for_a_whole_one(
    stand: Stand, name: str
) -> None:
    """gRPC shows both ends alike; a handler that took one for the other would keep half an import."""
    for round_ in range(1, 21):
        call = open_client_stream(stand, name, 30)
        await call.write(Text(value="a"))
        await reached(lambda: len(stand.probe.handled), round_)
        call.cancel()
        await reached(lambda: len(stand.lines()), round_)
    assert {line["code"] for line in stand.lines()} == {"CANCELLED"}
    assert stand.probe.completed == 0


async def test_a_request_stream_whose_time_is_over_is_not_taken_for_a_whole_one(stand: Stand) -> None:
    call = open_client_stream(stand, "ManyOne", 0.3)
    await call.write(Text(value="a"))
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    line = await stand.line()
    assert line["code"] in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert stand.probe.completed == 0


async def test_a_request_stream_with_a_message_above_the_limit_is_not_taken_for_a_whole_one(
    open_stand: Any,
) -> None:
    async with open_stand(limits=ServerLimits(max_message_bytes=1024)) as stand:
        code, _, _ = await stand.client.outcome("ManyOne", "a", "x" * 2000, "b")
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stand.line()
        assert (stand.probe.handled, stand.probe.completed) == (["a"], 0)


async def test_a_request_stream_that_was_ended_is_whole(stand: Stand) -> None:
    assert (await stand.client.outcome("ManyOne", "a", "b"))[2] == ["a,b"]
    assert stand.probe.completed == 1


async def test_an_empty_request_stream_is_whole(stand: Stand) -> None:
    assert (await stand.client.outcome("ManyOne"))[2] == [""]


async def test_a_cancellation_from_inside_is_an_error_and_no_silence(stand: Stand) -> None:
    """gRPC would leave the caller without any answer until its deadline."""

    async def wait_for_what_was_cancelled(*_: object) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    stand.probe.on_message = wait_for_what_was_cancelled
    call = await ending(stand, timeout=60.0)
    assert await call.code() is grpc.StatusCode.INTERNAL


async def test_a_handler_that_fails_because_the_time_is_over_says_so(stand: Stand) -> None:
    async def outlive(_: object, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await eventually(lambda: context.time_remaining() == 0)
            raise ValueError(CANARY) from None

    stand.probe.on_message = outlive
    assert (await stand.client.outcome("OneOne", "a", timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    line = await stand.line()
    assert (line["code"], line["reason"]) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert CANARY not in str(stand.log)


# Requests that are none.


@pytest.mark.parametrize("name", ["OneOne", "OneMany"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(stand: Stand, name: str) -> None:
    stub: Any = stand.client.channel.stream_stream(f"/{PROBE}/{name}")
    call = stub([b"\xff\xff\xff"], metadata=(("authorization", "Bearer good"),), timeout=10)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(await call.trailing_metadata()).reason == "REQUEST_MALFORMED"
    assert stand.probe.handled == []


async def test_a_unary_call_without_request_is_refused(stand: Stand) -> None:
    stub: Any = stand.client.channel.stream_unary(f"/{PROBE}/OneOne")
    call = stub([], metadata=(("authorization", "Bearer good"),), timeout=10)
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert stand.probe.handled == []
