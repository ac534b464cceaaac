"""Every shape, for every kind of caller."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.oauth import InsufficientScope, InvalidToken, IssuerUnavailable
from google.rpc import error_details_pb2, status_pb2

from tests.support.rpc import Stand, Text, principal

SHAPES = ["OneOne", "OneMany", "OneManyByWrite", "ManyOne", "ManyMany"]
ANSWERS = {
    "OneOne": ["a"],
    "OneMany": ["a"] * 3,
    "OneManyByWrite": ["a"] * 3,
    "ManyOne": ["a"],
    "ManyMany": ["a"],
}


def details(trailers: dict[str, bytes]) -> error_details_pb2.ErrorInfo:
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("name", SHAPES)
async def test_a_good_caller_is_answered(stand: Stand, name: str) -> None:
    code, _, answers = await stand.client.outcome(name, "a")
    assert (code, answers) == (grpc.StatusCode.OK, ANSWERS[name])
    assert stand.probe.handled == ["a"]


@pytest.mark.parametrize("name", SHAPES)
async def test_a_caller_without_token_is_unauthenticated_and_not_parsed(stand: Stand, name: str) -> None:
    code, trailers, answers = await stand.client.outcome(name, "a", token=None)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    # RFC 6750 section 3.1: no error code when no credentials were shown.
    assert trailers["www-authenticate"] == 'Bearer realm="gatehouse", scope="use:probe"'
    assert details(trailers).reason == "TOKEN_MISSING"
    assert (answers, stand.probe.parsed, stand.probe.handled) == ([], [], [])


@pytest.mark.parametrize("name", SHAPES)
async def test_a_weak_caller_is_denied_and_not_parsed(stand: Stand, name: str) -> None:
    code, trailers, _ = await stand.client.outcome(name, "a", token="weak")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert 'error="insufficient_scope"' in trailers["www-authenticate"]
    assert 'scope="use:probe"' in trailers["www-authenticate"]
    assert "other" not in str(trailers)
    assert details(trailers).metadata["required_scopes"] == "use:probe"
    assert (stand.probe.parsed, stand.probe.handled) == ([], [])


@pytest.mark.parametrize("name", SHAPES)
async def test_an_invalid_token_is_unauthenticated(stand: Stand, name: str) -> None:
    code, trailers, _ = await stand.client.outcome(name, "a", token="unknown")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert 'error="invalid_token"' in trailers["www-authenticate"]
    assert stand.probe.parsed == []


@pytest.mark.parametrize("name", SHAPES)
async def test_an_issuer_that_is_away_makes_the_call_unavailable(stand: Stand, name: str) -> None:
    stand.verifier.answers["good"] = IssuerUnavailable("introspection_timeout")
    code, trailers, _ = await stand.client.outcome(name, "a")
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "www-authenticate" not in trailers
    assert stand.probe.parsed == []


@pytest.mark.parametrize("token", [None, "weak", "unknown"])
async def test_a_denial_does_not_wait_for_a_client_that_sends_nothing(
    stand: Stand, token: str | None
) -> None:
    """The pattern of a unary deny handler hangs here until the deadline."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    stub: Any = stand.client.channel.stream_stream(
        "/probe.v1.Probe/ManyMany", Text.SerializeToString, Text.FromString
    )
    call = stub(metadata=metadata, timeout=30)
    async with asyncio.timeout(5):
        code = await call.code()
    assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize(
    "path", ["/probe.v1.Probe/Nothing", "//probe.v1.Probe/OneOne", "/probe.v1.Probe/OneOne/", "/x/y"]
)
async def test_an_unknown_path_is_unimplemented_and_reaches_no_token_check(stand: Stand, path: str) -> None:
    code, _, _ = await stand.client.outcome(path, "a")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert stand.verifier.asked == []
    assert [line["method"] for line in stand.log if line["event"] == "rpc"] == ["unknown"]


@pytest.mark.parametrize("name", ["OneMany", "ManyMany"])
async def test_a_stream_is_cut_when_its_token_expires(stand: Stand, name: str) -> None:
    stand.verifier.answers["good"] = principal("use:probe", lives=0.4)

    async def wait_for_ever(*_: object) -> None:
        await asyncio.Event().wait()

    stand.probe.on_message = wait_for_ever
    async with asyncio.timeout(5):
        code, trailers, _ = await stand.client.outcome(name, "a")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert details(trailers).reason == "TOKEN_EXPIRED"


@pytest.mark.parametrize("refusal", [InvalidToken("token_inactive"), InsufficientScope("insufficient_scope")])
async def test_a_stream_is_cut_when_a_recheck_refuses(open_stand: Any, refusal: Exception) -> None:
    from gatehouse.rpc import ServerLimits

    async with open_stand(limits=ServerLimits(recheck=0.05)) as stand:

        async def revoke_and_wait(*_: object) -> None:
            stand.verifier.answers["good"] = refusal
            await asyncio.Event().wait()

        stand.probe.on_message = revoke_and_wait
        async with asyncio.timeout(5):
            code, _, _ = await stand.client.outcome("OneMany", "a")
        assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


async def test_a_stream_outlives_an_outage_of_the_issuer(open_stand: Any) -> None:
    from gatehouse.rpc import ServerLimits

    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:

        async def wait_for_rechecks(*_: object) -> None:
            stand.verifier.answers["good"] = IssuerUnavailable("introspection_timeout")
            asked = len(stand.verifier.asked)
            while len(stand.verifier.asked) < asked + 3:
                await asyncio.sleep(0.005)

        stand.probe.on_message = wait_for_rechecks
        code, _, answers = await stand.client.outcome("OneMany", "a")
        assert (code, answers) == (grpc.StatusCode.OK, ["a"] * 3)


async def test_a_caller_that_goes_away_cancels_the_handler(stand: Stand) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stand.probe.on_message = wait_for_ever
    call = stand.client.call("OneOne", "a")
    async with asyncio.timeout(5):
        await asyncio.wait({asyncio.ensure_future(begun.wait())})
        call.cancel()
        await ended.wait()
        while not any(line["event"] == "rpc" for line in stand.log):
            await asyncio.sleep(0.005)
    assert [line["code"] for line in stand.log if line["event"] == "rpc"] == ["CANCELLED"]


async def test_an_unexpected_error_is_internal_and_shows_nothing(stand: Stand) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("password=canary")

    stand.probe.on_message = fail
    call = stand.client.call("OneOne", "a")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    line = next(line for line in stand.log if line["event"] == "unexpected error")
    assert line["error_id"] in (caught.value.details() or "")
    assert "canary" not in str(stand.log) + str(caught.value) + str(caught.value.trailing_metadata())


async def test_a_malformed_request_is_an_invalid_argument(stand: Stand) -> None:
    stub: Any = stand.client.channel.unary_unary("/probe.v1.Probe/OneOne")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(b"\xff\xff\xff", metadata=(("authorization", "Bearer good"),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_unary_call_without_request_is_refused(stand: Stand) -> None:
    stub: Any = stand.client.channel.stream_unary("/probe.v1.Probe/OneOne")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub([], metadata=(("authorization", "Bearer good"),))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Bearer good"), ("authorization", "Bearer good")),
        (("authorization", "Basic good"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer good,other"),),
        (("authorization", "Bearer good more"),),
        (("authorization", "good"),),
        (("authorization", "Bearer " + "x" * 8300),),
    ],
)
async def test_hostile_metadata_is_refused_before_a_token_is_looked_at(stand: Stand, metadata: Any) -> None:
    code, trailers, _ = await stand.client.outcome("OneOne", "a", metadata=metadata)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert 'error="invalid_request"' in trailers["www-authenticate"]
    assert stand.verifier.asked == []
    assert stand.probe.parsed == []


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_read_without_regard_to_case(stand: Stand, scheme: str) -> None:
    code, _, _ = await stand.client.outcome("OneOne", "a", metadata=(("authorization", f"{scheme} good"),))
    assert code is grpc.StatusCode.OK
