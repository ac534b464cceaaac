"""Calls whose tokens are verified by a real verifier, which asks an issuer on loopback."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

from gatehouse.rpc import AccessRule
from tests.support.eventually import eventually
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config
from tests.support.oauth_issuers import LoopbackIssuer
from tests.support.rpc import METHODS, PROBE, error_info, open_env

MODES = ["jwt", "introspection", "hybrid"]
_DENIED = grpc.StatusCode.PERMISSION_DENIED
SCOPES = frozenset({"use:probe"})


@pytest.fixture
async def issuer(idp: LoopbackIssuer) -> LoopbackIssuer:
    """An issuer in the present, like the server."""
    idp.clock = time.time
    return idp


async def verifier_of(make: MakeVerifier, issuer: LoopbackIssuer, mode: str, **changes: Any) -> Verifier:
    return await make(config(issuer, mode, **changes), clock=time.time, monotonic=time.monotonic)


def rule(**changes: Any) -> dict[str, AccessRule]:
    """Return one rule for all RPCs."""
    return dict.fromkeys((f"{PROBE}/{name}" for name in METHODS), AccessRule(scopes=SCOPES, **changes))


@pytest.mark.parametrize("mode", MODES)
async def test_leeway_applies_to_unary_calls_and_streams_alike(
    mode: str, issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, mode, revocation_budget_seconds=0)
    token = issuer.grant(scope="use:probe", exp=time.time() - 10)
    async with open_env(token_verifier=verifier, method_scopes=rule(), recheck_seconds=0.02) as env:

        async def wait_for_rechecks(*_: object) -> None:
            before = issuer.request_count("introspect")
            started = time.monotonic()
            await eventually(
                lambda: (
                    issuer.request_count("introspect") > before + 2
                    if mode != "jwt"
                    else time.monotonic() > started + 0.2
                )
            )

        env.probe.on_message = wait_for_rechecks
        outcomes = {name: (await env.client.outcome(name, "a", token=token))[0] for name in METHODS[1:]}
        env.probe.on_message = None
        outcomes["Unary"] = (await env.client.outcome("Unary", "a", token=token))[0]
    assert set(outcomes.values()) == {grpc.StatusCode.OK}, outcomes


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"scope": "other"}, "INSUFFICIENT_SCOPE"),
        ({"acr": "pwd"}, "ACR_MISMATCH"),
        ({"auth_time": 0}, "LOGIN_TOO_OLD"),
        ({"auth_time": ...}, "LOGIN_TOO_OLD"),
        ({"aud": "other"}, "AUDIENCE_MISMATCH"),
        ({"exp": 1}, "TOKEN_EXPIRED"),
    ],
    ids=str,
)
async def test_issuer_is_not_asked_about_a_token_that_is_not_enough(
    online: bool, claims: dict[str, Any], reason: str, issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, "hybrid")
    rules = rule(acr="mfa", max_age=600, online=online, roles=frozenset({"operator"}))
    good = {"scope": "use:probe", "acr": "mfa", "auth_time": time.time() - 5.5}
    roles = {"realm_access": {"roles": ["operator"]}}
    async with open_env(token_verifier=verifier, method_scopes=rules) as env:
        token = issuer.grant(**(good | roles | claims))
        for _ in range(10):
            _, trailers, _ = await env.client.outcome("Unary", "a", token=token)
            assert error_info(trailers).reason == reason
        assert issuer.request_count("introspect") == 0

        # A role can be granted after the token was issued, so the issuer is asked about it.
        token = issuer.sign(**good)
        issuer.activate(token, issuer.claims(**(good | roles)))
        assert (await env.client.outcome("Unary", "a", token=token))[0] is grpc.StatusCode.OK
        assert issuer.request_count("introspect") == 1


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"scope": "other"}, "INSUFFICIENT_SCOPE"),
        ({"aud": "other"}, "AUDIENCE_MISMATCH"),
        ({"typ": "Refresh"}, "TOKEN_TYPE_MISMATCH"),
        ({"exp": 1}, "TOKEN_EXPIRED"),
    ],
    ids=str,
)
async def test_issuer_is_asked_once_about_an_opaque_token_that_is_not_enough(
    claims: dict[str, Any], reason: str, issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, "introspection")
    issuer.activate("opaque", **({"scope": "use:probe"} | claims))
    async with open_env(token_verifier=verifier, method_scopes=rule(online=True)) as env:
        for _ in range(10):
            _, trailers, _ = await env.client.outcome("Unary", "a", token="opaque")
            assert error_info(trailers).reason == reason
    assert issuer.request_count("introspect") == 1


@pytest.mark.parametrize("changes", [{"exp": 1}, {"aud": "other"}, {"nbf": 4e9}, {"cnf": {}}], ids=str)
async def test_signed_token_that_is_not_valid_is_not_introspected(
    changes: dict[str, Any], issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, "introspection")
    token = issuer.sign(scope="use:probe", **changes)
    issuer.activate(token, scope="use:probe")
    async with open_env(token_verifier=verifier, method_scopes=rule(online=True)) as env:
        code, _, _ = await env.client.outcome("Unary", "a", token=token)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert issuer.request_count("introspect") == 0


async def test_concurrent_calls_with_different_rules_do_not_share_a_refusal(
    issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, "hybrid")
    rules = rule() | {f"{PROBE}/ServerStream": AccessRule(scopes=frozenset({"other"}))}
    token = issuer.grant(scope="use:probe")
    issuer.hold("introspect")
    async with open_env(token_verifier=verifier, method_scopes=rules) as env:
        assert (await env.client.outcome("ServerStream", "a", token=token))[0] is _DENIED
        allowed = env.client.call("Unary", "a", token=token)
        await eventually(lambda: issuer.request_count("introspect") == 1)
        joined = env.client.call("ServerStream", "a", token=token)
        issuer.release("introspect")
        assert await joined.code() is _DENIED
        assert await allowed.code() is grpc.StatusCode.OK
    assert issuer.request_count("introspect") == 1


async def test_any_audience_of_the_list_is_accepted(
    issuer: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await verifier_of(make_verifier, issuer, "jwt", audience=["gatehouse-api", "legacy-api"])
    async with open_env(token_verifier=verifier, method_scopes=rule()) as env:

        async def code(aud: object) -> grpc.StatusCode:
            return (await env.client.outcome("Unary", "a", token=issuer.sign(aud=aud, scope="use:probe")))[0]

        accepted = ["gatehouse-api", "legacy-api", ["legacy-api"], ["other", "legacy-api"]]
        assert [await code(aud) for aud in accepted] == [grpc.StatusCode.OK] * 4
        assert [await code(aud) for aud in ["other", ["other"]]] == [grpc.StatusCode.UNAUTHENTICATED] * 2
