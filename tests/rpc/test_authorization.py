"""Authorization: calls are admitted or refused before their request is read, for every RPC type.

Most tests run on the asyncio server and on a synchronous server with OAuth2ServerInterceptor.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from gatehouse.oauth import InsufficientScope, InvalidToken, IssuerUnavailable, TokenRequestFailed
from gatehouse.rpc import AccessRule, Method, RpcMetrics, RpcType, current_call, current_principal
from gatehouse.rpc._metadata import CallMetadata
from gatehouse.rpc.authorization import AuthorizationInterceptor
from gatehouse.rpc.call import Call
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, PROBE, Env, TableVerifier, Text, error_info, open_env, principal
from tests.support.sync_server import open_sync_env

RESPONSES = {
    "Unary": ["a"],
    "ServerStream": ["a"] * 3,
    "ServerStreamByWrite": ["a"] * 3,
    "ClientStream": ["a"],
    "BidiStream": ["a"],
}
RULE = AccessRule(scopes=frozenset({"use:probe"}), roles=frozenset({"operator"}), max_age=600)
# For each token, the expected code, message, reason and challenge.
REFUSALS: dict[str | None, tuple[grpc.StatusCode, str, str, str]] = {
    None: (
        grpc.StatusCode.UNAUTHENTICATED,
        "missing access token",
        "TOKEN_MISSING",
        # RFC 6750 section 3.1: no error code if there are no credentials.
        'Bearer realm="gatehouse", scope="use:probe"',
    ),
    "never-seen": (
        grpc.StatusCode.UNAUTHENTICATED,
        "invalid access token",
        "TOKEN_INACTIVE",
        (
            'Bearer realm="gatehouse", error="invalid_token", error_description="token inactive", '
            'scope="use:probe"'
        ),
    ),
    "without-scope": (
        grpc.StatusCode.PERMISSION_DENIED,
        "the access token lacks a required scope or role",
        "INSUFFICIENT_SCOPE",
        (
            'Bearer realm="gatehouse", error="insufficient_scope", error_description="insufficient scope", '
            'scope="use:probe"'
        ),
    ),
    "without-role": (
        grpc.StatusCode.PERMISSION_DENIED,
        "the access token lacks a required scope or role",
        "ROLE_MISSING",
        (
            'Bearer realm="gatehouse", error="insufficient_scope", error_description="role missing", '
            'scope="use:probe"'
        ),
    ),
    "stale-login": (
        grpc.StatusCode.UNAUTHENTICATED,
        "a stronger or more recent login is required",
        "LOGIN_TOO_OLD",
        (
            'Bearer realm="gatehouse", error="insufficient_user_authentication", '
            'error_description="login too old", max_age=600, scope="use:probe"'
        ),
    ),
    "issuer-unavailable": (
        grpc.StatusCode.UNAVAILABLE,
        "the access token cannot be verified now; retry later",
        "ISSUER_UNAVAILABLE",
        "",
    ),
}


@pytest.fixture(params=[open_env, open_sync_env], ids=["asyncio", "sync"])
def open_server(request: pytest.FixtureRequest) -> Any:
    """Start either server with the probe service."""
    return request.param


@pytest.fixture
async def env(open_server: Any) -> AsyncIterator[Env]:
    """A server with the probe service, whose RPCs all need the scope `use:probe`."""
    async with open_server() as opened:
        yield opened


@pytest.fixture
async def guarded(open_server: Any) -> AsyncIterator[Env]:
    """A rule with all conditions, and a token for each way to fail it."""
    async with open_server(method_scopes={f"{PROBE}/{name}": RULE for name in METHODS}) as env:
        env.verifier.answers |= {
            "good": principal("use:probe", roles=("operator",), auth_time=2**31),
            "without-scope": principal("other:secret-scope", roles=("operator",), auth_time=2**31),
            "without-role": principal("use:probe", roles=("secret-role",), auth_time=2**31),
            "stale-login": principal("use:probe", roles=("operator",), auth_time=0),
            "issuer-unavailable": IssuerUnavailable("introspection_timeout"),
        }
        yield env


@pytest.mark.parametrize("name", METHODS)
async def test_a_call_that_satisfies_the_rule_is_admitted(guarded: Env, name: str) -> None:
    code, _, responses = await guarded.client.outcome(name, "a")
    assert (code, responses) == (grpc.StatusCode.OK, RESPONSES[name])


@pytest.mark.parametrize("token", REFUSALS)
@pytest.mark.parametrize("name", METHODS)
async def test_a_refusal_has_a_code_message_reason_and_challenge(
    guarded: Env, name: str, token: str | None
) -> None:
    wanted_code, text, reason, challenge = REFUSALS[token]
    call = guarded.client.call(name, "a", token=token)
    async with asyncio.timeout(5):
        code, details = await call.code(), await call.details()
    trailers = dict(await call.trailing_metadata())
    assert (code, details) == (wanted_code, text)
    assert trailers.get("www-authenticate", "") == challenge
    assert error_info(trailers).reason == reason
    # A refusal does not list what the token contains.
    assert "secret" not in str(trailers)


@pytest.mark.parametrize("token", REFUSALS)
@pytest.mark.parametrize("name", METHODS)
async def test_the_request_of_a_refused_call_is_never_read(
    guarded: Env, name: str, token: str | None
) -> None:
    await guarded.client.outcome(name, "a", token=token)
    assert (guarded.probe.parsed, guarded.probe.handled) == ([], [])
    line = await guarded.line()
    assert line["bytes_received"] == 0


@pytest.mark.parametrize("token", REFUSALS)
@pytest.mark.parametrize("name", ["ClientStream", "BidiStream"])
async def test_a_refusal_does_not_wait_for_a_request_stream(
    guarded: Env, name: str, token: str | None
) -> None:
    channel = guarded.client.channel
    open_call: Any = channel.stream_unary if name == "ClientStream" else channel.stream_stream
    stub = open_call(f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString)
    call = stub(metadata=() if token is None else (("authorization", f"Bearer {token}"),), timeout=60)
    async with asyncio.timeout(5):
        assert await call.code() is REFUSALS[token][0]


@pytest.mark.parametrize("token", REFUSALS)
async def test_a_refusal_of_a_unary_call_does_not_wait_for_its_request(
    guarded: Env, token: str | None
) -> None:
    stub: Any = guarded.client.channel.stream_unary(f"/{PROBE}/Unary")
    call = stub(metadata=() if token is None else (("authorization", f"Bearer {token}"),), timeout=60)
    async with asyncio.timeout(5):
        assert await call.code() is REFUSALS[token][0]


async def test_details_list_the_required_scopes_but_not_those_of_the_token(guarded: Env) -> None:
    _, trailers, _ = await guarded.client.outcome("Unary", "a", token="without-scope")
    assert dict(error_info(trailers).metadata) == {
        "method": f"{PROBE}/Unary",
        "required_scopes": "use:probe",
    }


async def test_details_and_log_name_the_cause_of_an_issuer_outage(guarded: Env) -> None:
    _, trailers, _ = await guarded.client.outcome("Unary", "a", token="issuer-unavailable")
    assert dict(error_info(trailers).metadata) == {"cause": "INTROSPECTION_TIMEOUT"}
    line = await guarded.line()
    assert (line["reason"], line["cause"]) == ("ISSUER_UNAVAILABLE", "INTROSPECTION_TIMEOUT")


async def test_a_failed_token_request_in_a_handler_is_unavailable(guarded: Env) -> None:
    async def call_on(*_: object) -> None:
        raise TokenRequestFailed("invalid_client")

    guarded.probe.on_message = call_on
    code, trailers, _ = await guarded.client.outcome("Unary", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAVAILABLE, "ISSUER_UNAVAILABLE")


async def test_handlers_get_the_principal(env: Env) -> None:
    seen: list[str] = []

    async def look(*_: object) -> None:
        seen.append(current_principal().subject)

    env.probe.on_message = look
    for name in METHODS:
        await env.client.outcome(name, "a")
    assert seen == ["subject-of-alice"] * len(METHODS)


async def test_a_public_rpc_has_no_principal(open_server: Any) -> None:
    async with open_server(public_methods=[f"{PROBE}/Unary"]) as env:
        seen: list[object] = []

        async def look(*_: object) -> None:
            seen.append(current_call().principal)
            with pytest.raises(LookupError, match="a public RPC has no principal"):
                current_principal()
            seen.append("raised")

        env.probe.on_message = look
        await env.client.outcome("Unary", "a")
        assert seen == [None, "raised"]


def test_outside_a_handler_there_is_no_call_and_no_principal() -> None:
    with pytest.raises(LookupError):
        current_principal()
    with pytest.raises(LookupError):
        current_call()


async def wait_forever(*_: object) -> None:
    await asyncio.Event().wait()


# Nothing can interrupt the thread of a synchronous handler that returns a single response.
STREAMS = [(open_env, name) for name in METHODS if name != "Unary"] + [
    (open_sync_env, name) for name in ("ServerStream", "ServerStreamByWrite", "BidiStream")
]


@pytest.mark.parametrize(("open_server", "name"), STREAMS)
async def test_a_stream_is_cancelled_when_its_token_expires(open_server: Any, name: str) -> None:
    async with open_server() as env:
        env.verifier.answers["good"] = principal("use:probe", lifetime=0.4)
        env.probe.on_message = wait_forever
        async with asyncio.timeout(10):
            code, trailers, _ = await env.client.outcome(name, "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert 'error="invalid_token", error_description="token expired"' in trailers["www-authenticate"]


@pytest.mark.parametrize("name", ["ClientStream", "BidiStream"])
async def test_a_stream_without_requests_is_cancelled_when_its_token_expires(env: Env, name: str) -> None:
    env.verifier.answers["good"] = principal("use:probe", lifetime=0.4)
    channel = env.client.channel
    open_call: Any = channel.stream_unary if name == "ClientStream" else channel.stream_stream
    stub = open_call(f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString)
    call = stub(metadata=(("authorization", "Bearer good"),), timeout=60)
    async with asyncio.timeout(10):
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("open_server", "name"), STREAMS)
async def test_a_stream_is_cancelled_when_its_token_is_revoked(open_server: Any, name: str) -> None:
    async with open_server(recheck_seconds=0.02) as env:

        async def revoke_and_wait(*_: object) -> None:
            env.verifier.answers["good"] = InvalidToken("token_revoked")
            await asyncio.Event().wait()

        env.probe.on_message = revoke_and_wait
        async with asyncio.timeout(10):
            code, trailers, _ = await env.client.outcome(name, "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")


async def test_a_stream_is_cancelled_when_its_token_loses_the_scope(open_server: Any) -> None:
    async with open_server(recheck_seconds=0.02) as env:

        async def demote_and_wait(*_: object) -> None:
            env.verifier.answers["good"] = principal("other")
            await asyncio.Event().wait()

        env.probe.on_message = demote_and_wait
        async with asyncio.timeout(10):
            code, _, _ = await env.client.outcome("ServerStream", "a")
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_with_an_online_rule_is_rechecked_online(open_server: Any) -> None:
    rules = {f"{PROBE}/ServerStream": AccessRule(scopes=frozenset({"use:probe"}), online=True)}
    async with open_server(method_scopes=rules, recheck_seconds=0.02) as env:

        async def wait_for_rechecks(*_: object) -> None:
            await eventually(lambda: len(env.verifier.asked) > 2)

        env.probe.on_message = wait_for_rechecks
        assert (await env.client.outcome("ServerStream", "a"))[0] is grpc.StatusCode.OK
        assert set(env.verifier.asked) == {("good", True)}


async def test_a_stream_survives_an_issuer_outage_until_its_token_expires(open_server: Any) -> None:
    async with open_server(recheck_seconds=0.02) as env:
        env.verifier.answers["good"] = principal("use:probe", lifetime=1.0)
        asked: list[int] = []

        async def lose_the_issuer(*_: object) -> None:
            env.verifier.answers["good"] = IssuerUnavailable("introspection_timeout")
            await eventually(lambda: len(env.verifier.asked) > 5)
            asked.append(len(env.verifier.asked))
            await asyncio.Event().wait()

        env.probe.on_message = lose_the_issuer
        async with asyncio.timeout(10):
            code, trailers, _ = await env.client.outcome("ServerStream", "a")
    assert asked, "the stream ended at a check without the issuer"
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_check_that_hangs_does_not_delay_the_expiry_of_a_stream(open_server: Any) -> None:
    async with open_server(recheck_seconds=0.02) as env:
        env.verifier.answers["good"] = principal("use:probe", lifetime=1.0)

        async def hang_from_now_on(*_: object) -> None:
            env.verifier.hangs = True
            await asyncio.Event().wait()

        env.probe.on_message = hang_from_now_on
        async with asyncio.timeout(10):
            code, _, _ = await env.client.outcome("ServerStream", "a")
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_when_a_check_fails_unexpectedly(open_server: Any) -> None:
    async with open_server(recheck_seconds=0.02) as env:

        async def break_the_verifier(*_: object) -> None:
            env.verifier.answers["good"] = RuntimeError("canary")
            await asyncio.Event().wait()

        env.probe.on_message = break_the_verifier
        async with asyncio.timeout(10):
            code, trailers, _ = await env.client.outcome("ServerStream", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


@pytest.mark.parametrize("open_server", [open_env])
async def test_a_handler_cannot_keep_a_stream_by_catching_the_cancellation(env: Env) -> None:
    env.verifier.answers["good"] = principal("use:probe", lifetime=0.4)

    async def cling(*_: object) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    env.probe.on_message = cling
    async with asyncio.timeout(10):
        code, trailers, _ = await env.client.outcome("ClientStream", "a")
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_stream_that_its_client_cancels_is_not_a_refusal(env: Env) -> None:
    env.probe.on_message = wait_forever
    call = env.client.call("ServerStream", "a")
    reading = asyncio.ensure_future(call.read())
    async with asyncio.timeout(10):
        await eventually(lambda: env.probe.handled)
        call.cancel()
        await asyncio.wait({reading})
        assert (await env.line())["code"] == "CANCELLED"


async def test_a_unary_call_is_not_cancelled_when_its_token_expires(env: Env) -> None:
    """The limit on its duration is short enough."""
    env.verifier.answers["good"] = principal("use:probe", lifetime=0.05)

    async def outlive(*_: object) -> None:
        expires_at = current_principal().expires_at
        await eventually(lambda: time.time() > expires_at)

    env.probe.on_message = outlive
    assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.OK


def test_public_rpcs_skip_the_interceptor() -> None:
    async def innermost(_: object) -> None: ...

    interceptor = AuthorizationInterceptor(TableVerifier(), RpcMetrics(), recheck_seconds=1.0)
    handler: Any = grpc.unary_unary_rpc_method_handler(innermost)
    method = Method("/s.S/M", RpcType.UNARY, AccessRule(public=True), handler)
    assert interceptor.intercept(method, innermost) is innermost


async def run_stream(
    verifier: TableVerifier,
    work: Any,
    recheck_seconds: float = 60.0,
    clock: Callable[[], float] = time.time,
) -> None:
    """Run `work` as a stream with the token `good`."""
    interceptor = AuthorizationInterceptor(
        verifier, RpcMetrics(), recheck_seconds=recheck_seconds, clock=clock
    )
    handler: Any = grpc.unary_stream_rpc_method_handler(work)
    method = Method("/s.S/M", RpcType.SERVER_STREAMING, AccessRule(authenticated=True), handler)
    context = SimpleNamespace(peer=lambda: "ipv4:127.0.0.1:50000")
    call = Call(method, context, CallMetadata(authorization=("Bearer good",)), asyncio.Event())
    await interceptor.intercept(method, work)(call)


async def test_a_stream_ends_when_its_token_expires_and_not_before() -> None:
    verifier = TableVerifier()
    verifier.answers["good"] = answer = principal(lifetime=1.5)
    with pytest.raises(InvalidToken, match="token_expired"):
        await run_stream(verifier, wait_forever, recheck_seconds=0.02)
    assert time.time() >= answer.expires_at
    assert len(verifier.asked) > 4
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # otherwise `asyncio.timeout` in outer interceptors would fail


async def test_a_stream_ends_at_the_very_time_at_which_its_token_expires() -> None:
    verifier = TableVerifier()
    verifier.answers["good"] = answer = principal(lifetime=0.05)
    with pytest.raises(InvalidToken, match="token_expired"):
        async with asyncio.timeout(10):
            # The clock stops there.
            await run_stream(verifier, wait_forever, clock=lambda: min(time.time(), answer.expires_at))


async def test_a_stream_has_the_principal_of_the_latest_check() -> None:
    async def work(call: Call) -> None:
        verifier.answers["good"] = latest
        await eventually(lambda: call.principal is latest)

    verifier, latest = TableVerifier(), principal(roles=("auditor",))
    verifier.answers["good"] = principal(roles=("operator",))
    await run_stream(verifier, work, recheck_seconds=0.02)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_that_ends_leaves_no_task_behind(fails: bool) -> None:
    async def work(_: object) -> None:
        await asyncio.sleep(0)
        if fails:
            raise KeyError

    verifier = TableVerifier()
    verifier.answers["good"] = principal()
    before = asyncio.all_tasks()
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        await run_stream(verifier, work)
    await eventually(lambda: asyncio.all_tasks() == before)


@pytest.mark.parametrize("refusal", [InvalidToken("token_inactive"), InsufficientScope("insufficient_scope")])
async def test_the_log_line_of_a_refusal_has_its_reason(env: Env, refusal: Exception) -> None:
    env.verifier.answers["good"] = refusal
    await env.client.outcome("Unary", "a")
    line = await env.line()
    assert (line["level"], line["reason"]) == ("warning", str(refusal).upper())


@pytest.mark.parametrize("entry", ["bearer good", "BEARER good", "Bearer  good"])
async def test_the_scheme_is_case_insensitive_and_can_be_followed_by_spaces(env: Env, entry: str) -> None:
    code, _, _ = await env.client.outcome("Unary", "a", metadata=(("authorization", entry),))
    assert code is grpc.StatusCode.OK
    assert env.verifier.asked == [("good", False)]


async def test_log_line_of_a_denied_call_names_the_caller(env: Env) -> None:
    await env.client.outcome("Unary", "a", token="weak", metadata=None)
    line = await env.line()
    assert (line["code"], line["subject"], line["client_id"]) == (
        "PERMISSION_DENIED",
        "subject-of-alice",
        "console",
    )


async def test_checks_of_a_stream_are_counted_for_its_connection(open_server: Any) -> None:
    async with open_server(recheck_seconds=0.02) as env:

        async def wait_for_rechecks(*_: object) -> None:
            await eventually(lambda: len(env.verifier.sources) > 2)

        env.probe.on_message = wait_for_rechecks
        await env.client.outcome("ServerStream", "a")
        assert len(set(env.verifier.sources)) == 1
        assert env.verifier.sources[0].startswith("ipv4:127.0.0.1:")
