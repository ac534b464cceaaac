"""A caller is admitted or denied before its request is read, in every shape, with a fixed answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from gatehouse.oauth import InsufficientScope, InvalidToken, IssuerUnavailable, TokenRequestFailed
from gatehouse.rpc import AccessRule, ServerLimits, current_call, current_principal
from gatehouse.rpc.authorization import AuthorizationInterceptor
from tests.support.rpc import PROBE, SHAPES, Stand, Text, error_info, eventually, principal

ANSWERS = {
    "OneOne": ["a"],
    "OneMany": ["a"] * 3,
    "OneManyByWrite": ["a"] * 3,
    "ManyOne": ["a"],
    "ManyMany": ["a"],
}
RULE = AccessRule(scopes=frozenset({"use:probe"}), roles=frozenset({"operator"}), max_age=600)
# Which token it is, and what its caller must get: code, text, reason, challenge.
DENIALS: dict[str | None, tuple[grpc.StatusCode, str, str, str]] = {
    None: (
        grpc.StatusCode.UNAUTHENTICATED,
        "no access token was sent",
        "TOKEN_MISSING",
        # RFC 6750 section 3.1: no error code when no credentials were shown.
        'Bearer realm="gatehouse", scope="use:probe"',
    ),
    "never-seen": (
        grpc.StatusCode.UNAUTHENTICATED,
        "the access token is not valid",
        "TOKEN_INACTIVE",
        (
            'Bearer realm="gatehouse", error="invalid_token", error_description="token inactive", '
            'scope="use:probe"'
        ),
    ),
    "without-scope": (
        grpc.StatusCode.PERMISSION_DENIED,
        "the access token does not permit this call",
        "INSUFFICIENT_SCOPE",
        (
            'Bearer realm="gatehouse", error="insufficient_scope", error_description="insufficient scope", '
            'scope="use:probe"'
        ),
    ),
    "without-role": (
        grpc.StatusCode.PERMISSION_DENIED,
        "the access token does not permit this call",
        "ROLE_MISSING",
        (
            'Bearer realm="gatehouse", error="insufficient_scope", error_description="role missing", '
            'scope="use:probe"'
        ),
    ),
    "stale-login": (
        grpc.StatusCode.UNAUTHENTICATED,
        "the login behind the access token is not strong or recent enough",
        "LOGIN_TOO_OLD",
        (
            'Bearer realm="gatehouse", error="insufficient_user_authentication", '
            'error_description="login too old", max_age=600, scope="use:probe"'
        ),
    ),
    "issuer-away": (
        grpc.StatusCode.UNAVAILABLE,
        "the access token cannot be verified now, try again",
        "ISSUER_UNAVAILABLE",
        "",
    ),
}


@pytest.fixture
async def guarded(open_stand: Any) -> AsyncIterator[Stand]:
    """The probe under a rule that asks for everything, and a caller for each way to fail it."""
    async with open_stand(method_scopes={f"{PROBE}/{name}": RULE for name in SHAPES}) as stand:
        stand.verifier.answers |= {
            "good": principal("use:probe", roles=("operator",), auth_time=2**31),
            "without-scope": principal("other:secret-scope", roles=("operator",), auth_time=2**31),
            "without-role": principal("use:probe", roles=("secret-role",), auth_time=2**31),
            "stale-login": principal("use:probe", roles=("operator",), auth_time=0),
            "issuer-away": IssuerUnavailable("introspection_timeout"),
        }
        yield stand


@pytest.mark.parametrize("name", SHAPES)
async def test_a_good_caller_is_answered(guarded: Stand, name: str) -> None:
    code, _, answers = await guarded.client.outcome(name, "a")
    assert (code, answers) == (grpc.StatusCode.OK, ANSWERS[name])


@pytest.mark.parametrize("token", DENIALS)
@pytest.mark.parametrize("name", SHAPES)
async def test_a_denial_has_its_code_text_challenge_and_reason(
    guarded: Stand, name: str, token: str | None
) -> None:
    wanted_code, text, reason, challenge = DENIALS[token]
    call = guarded.client.call(name, "a", token=token)
    async with asyncio.timeout(5):
        code, details = await call.code(), await call.details()
    trailers = dict(await call.trailing_metadata())
    assert (code, details) == (wanted_code, text)
    assert trailers.get("www-authenticate", "") == challenge
    assert error_info(trailers).reason == reason
    # What the caller has is nobody's business, not even its own.
    assert "secret" not in str(trailers)


@pytest.mark.parametrize("token", DENIALS)
@pytest.mark.parametrize("name", SHAPES)
async def test_the_request_of_a_denied_caller_is_never_parsed(
    guarded: Stand, name: str, token: str | None
) -> None:
    await guarded.client.outcome(name, "a", token=token)
    assert (guarded.probe.parsed, guarded.probe.handled) == ([], [])
    line = await guarded.line()
    assert line["bytes_received"] == 0


@pytest.mark.parametrize("token", DENIALS)
@pytest.mark.parametrize("name", ["ManyOne", "ManyMany"])
async def test_a_denial_does_not_wait_for_a_client_that_has_sent_nothing(
    guarded: Stand, name: str, token: str | None
) -> None:
    channel = guarded.client.channel
    open_call: Any = channel.stream_unary if name == "ManyOne" else channel.stream_stream
    stub = open_call(f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString)
    call = stub(metadata=() if token is None else (("authorization", f"Bearer {token}"),), timeout=60)
    async with asyncio.timeout(5):
        assert await call.code() is DENIALS[token][0]


@pytest.mark.parametrize("token", DENIALS)
async def test_a_denial_of_a_unary_call_does_not_wait_for_its_request(
    guarded: Stand, token: str | None
) -> None:
    stub: Any = guarded.client.channel.stream_unary(f"/{PROBE}/OneOne")
    call = stub(metadata=() if token is None else (("authorization", f"Bearer {token}"),), timeout=60)
    async with asyncio.timeout(5):
        assert await call.code() is DENIALS[token][0]


async def test_the_missing_scopes_are_in_the_details_and_the_token_s_are_not(guarded: Stand) -> None:
    _, trailers, _ = await guarded.client.outcome("OneOne", "a", token="without-scope")
    assert dict(error_info(trailers).metadata) == {
        "method": f"{PROBE}/OneOne",
        "required_scopes": "use:probe",
    }


async def test_an_outage_is_named_in_the_details(guarded: Stand) -> None:
    _, trailers, _ = await guarded.client.outcome("OneOne", "a", token="issuer-away")
    assert dict(error_info(trailers).metadata) == {"cause": "INTROSPECTION_TIMEOUT"}


async def test_a_token_endpoint_that_fails_inside_a_call_is_no_fault_of_the_caller(guarded: Stand) -> None:
    async def call_on(*_: object) -> None:
        raise TokenRequestFailed("invalid_client")

    guarded.probe.on_message = call_on
    code, trailers, _ = await guarded.client.outcome("OneOne", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAVAILABLE, "ISSUER_UNAVAILABLE")


async def test_a_handler_knows_who_calls(stand: Stand) -> None:
    seen: list[str] = []

    async def look(*_: object) -> None:
        seen.append(current_principal().subject)

    stand.probe.on_message = look
    for name in SHAPES:
        await stand.client.outcome(name, "a")
    assert seen == ["subject-of-alice"] * len(SHAPES)


async def test_a_public_rpc_has_no_principal(open_stand: Any) -> None:
    async with open_stand(public_methods=[f"{PROBE}/OneOne"]) as stand:
        seen: list[object] = []

        async def look(*_: object) -> None:
            seen.append(current_call().principal)
            with pytest.raises(LookupError, match="a public RPC has no principal"):
                current_principal()
            seen.append("asked")

        stand.probe.on_message = look
        await stand.client.outcome("OneOne", "a")
        assert seen == [None, "asked"]


def test_outside_of_a_call_nobody_calls() -> None:
    with pytest.raises(LookupError):
        current_principal()
    with pytest.raises(LookupError):
        current_call()


# Streams, while they last.


async def wait_for_ever(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("name", ["OneMany", "OneManyByWrite", "ManyOne", "ManyMany"])
async def test_a_stream_is_cut_when_its_token_expires(stand: Stand, name: str) -> None:
    stand.verifier.answers["good"] = principal("use:probe", lives=0.4)
    stand.probe.on_message = wait_for_ever
    async with asyncio.timeout(10):
        code, trailers, _ = await stand.client.outcome(name, "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert 'error="invalid_token", error_description="token expired"' in trailers["www-authenticate"]


async def test_a_stream_whose_client_is_silent_is_cut_too(stand: Stand) -> None:
    stand.verifier.answers["good"] = principal("use:probe", lives=0.4)
    stub: Any = stand.client.channel.stream_stream(
        f"/{PROBE}/ManyMany", Text.SerializeToString, Text.FromString
    )
    call = stub(metadata=(("authorization", "Bearer good"),), timeout=60)
    async with asyncio.timeout(10):
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["OneMany", "OneManyByWrite", "ManyOne", "ManyMany"])
async def test_a_stream_is_cut_at_the_recheck_after_its_token_was_revoked(open_stand: Any, name: str) -> None:
    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:

        async def revoke_and_wait(*_: object) -> None:
            stand.verifier.answers["good"] = InvalidToken("token_revoked")
            await asyncio.Event().wait()

        stand.probe.on_message = revoke_and_wait
        async with asyncio.timeout(10):
            code, trailers, _ = await stand.client.outcome(name, "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")


async def test_a_stream_is_cut_when_its_caller_loses_the_scope(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:

        async def demote_and_wait(*_: object) -> None:
            stand.verifier.answers["good"] = principal("other")
            await asyncio.Event().wait()

        stand.probe.on_message = demote_and_wait
        async with asyncio.timeout(10):
            code, _, _ = await stand.client.outcome("OneMany", "a")
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_of_an_online_rule_is_rechecked_online(open_stand: Any) -> None:
    rules = {f"{PROBE}/OneMany": AccessRule(scopes=frozenset({"use:probe"}), online=True)}
    async with open_stand(method_scopes=rules, limits=ServerLimits(recheck=0.02)) as stand:

        async def wait_for_rechecks(*_: object) -> None:
            await eventually(lambda: len(stand.verifier.asked) > 2)

        stand.probe.on_message = wait_for_rechecks
        assert (await stand.client.outcome("OneMany", "a"))[0] is grpc.StatusCode.OK
        assert set(stand.verifier.asked) == {("good", True)}


async def test_a_stream_outlives_an_outage_and_not_its_token(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:
        stand.verifier.answers["good"] = principal("use:probe", lives=1.0)
        asked: list[int] = []

        async def lose_the_issuer(*_: object) -> None:
            stand.verifier.answers["good"] = IssuerUnavailable("introspection_timeout")
            await eventually(lambda: len(stand.verifier.asked) > 5)
            asked.append(len(stand.verifier.asked))
            await asyncio.Event().wait()

        stand.probe.on_message = lose_the_issuer
        async with asyncio.timeout(10):
            code, trailers, _ = await stand.client.outcome("OneMany", "a")
    assert asked, "the stream did not live through several re-checks without the issuer"
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_recheck_that_hangs_does_not_lengthen_the_life_of_a_token(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:
        stand.verifier.answers["good"] = principal("use:probe", lives=1.0)

        async def hang_from_now_on(*_: object) -> None:
            stand.verifier.hangs = True
            await asyncio.Event().wait()

        stand.probe.on_message = hang_from_now_on
        async with asyncio.timeout(10):
            code, _, _ = await stand.client.outcome("OneMany", "a")
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_that_nobody_can_watch_any_more_is_ended(open_stand: Any) -> None:
    """A fault in a re-check must not leave a stream that no expiry would cut."""
    async with open_stand(limits=ServerLimits(recheck=0.02)) as stand:

        async def break_the_verifier(*_: object) -> None:
            stand.verifier.answers["good"] = RuntimeError("canary")
            await asyncio.Event().wait()

        stand.probe.on_message = break_the_verifier
        async with asyncio.timeout(10):
            code, trailers, _ = await stand.client.outcome("OneMany", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_a_handler_that_catches_the_cut_is_cut_all_the_same(stand: Stand) -> None:
    stand.verifier.answers["good"] = principal("use:probe", lives=0.4)

    async def cling(*_: object) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    stand.probe.on_message = cling
    async with asyncio.timeout(10):
        code, trailers, _ = await stand.client.outcome("ManyOne", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_caller_that_leaves_a_stream_is_not_taken_for_a_cut(stand: Stand) -> None:
    begun = asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    stand.probe.on_message = wait
    call = stand.client.call("OneMany", "a")
    reading = asyncio.ensure_future(call.read())
    async with asyncio.timeout(10):
        await begun.wait()
        call.cancel()
        await asyncio.wait({reading})
        assert (await stand.line())["code"] == "CANCELLED"


async def test_a_unary_call_outlives_its_token_for_its_deadline_at_most(stand: Stand) -> None:
    """A unary call is short by the limit on deadlines; a guard on each would cost more than it brings."""
    stand.verifier.answers["good"] = principal("use:probe", lives=0.05)

    async def outlive(*_: object) -> None:
        ends_at = current_principal().expires_at
        import time

        await eventually(lambda: time.time() > ends_at)

    stand.probe.on_message = outlive
    assert (await stand.client.outcome("OneOne", "a"))[0] is grpc.StatusCode.OK


def test_a_public_rpc_is_composed_without_this_layer() -> None:
    """What can be decided at start costs nothing per call."""
    from gatehouse.rpc import Method, RpcMetrics, Shape
    from tests.support.rpc import TableVerifier

    async def innermost(_: object) -> None: ...

    layer = AuthorizationInterceptor(TableVerifier(), RpcMetrics(), recheck_seconds=1.0)
    handler: Any = grpc.unary_unary_rpc_method_handler(innermost)
    method = Method("/s.S/M", "s.S", Shape.UNARY, AccessRule(public=True), handler)
    assert layer.intercept(method, innermost) is innermost


@pytest.mark.parametrize("refusal", [InvalidToken("token_inactive"), InsufficientScope("insufficient_scope")])
async def test_denials_are_told_apart_in_the_log(stand: Stand, refusal: Exception) -> None:
    stand.verifier.answers["good"] = refusal
    await stand.client.outcome("OneOne", "a")
    line = await stand.line()
    assert (line["level"], line["reason"]) == ("warning", str(refusal).upper())


@pytest.mark.parametrize("entry", ["bearer good", "BEARER good", "Bearer  good"])
async def test_scheme_is_case_insensitive_and_may_be_followed_by_spaces(stand: Stand, entry: str) -> None:
    code, _, _ = await stand.client.outcome("OneOne", "a", metadata=(("authorization", entry),))
    assert code is grpc.StatusCode.OK
    assert stand.verifier.asked == [("good", False)]


async def test_an_online_rule_asks_the_issuer(open_stand: Any) -> None:
    rule = AccessRule(scopes=frozenset({"use:probe"}), online=True)
    async with open_stand(method_scopes={f"{PROBE}/OneOne": rule}) as stand:
        code, _, _ = await stand.client.outcome("OneOne", "a")
    assert code is grpc.StatusCode.OK
    assert stand.verifier.asked == [("good", True)]
