"""Verification of the tokens of several issuers over HTTP, in all modes."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from contextlib import suppress
from typing import Any, Self

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.oauth import InvalidToken, IssuerUnavailable, PresentedToken
from gatehouse.settings import IssuerSettings
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import (
    CountingObserver,
    MakeVerifier,
    Stopwatch,
    Verifier,
    config,
    outage,
    refusal,
)
from tests.support.oauth_issuers import AUDIENCE, EPOCH, METADATA, LoopbackIssuer, ManualTime, SigningKey, b64


@pytest.mark.parametrize("mode", ["jwt", "introspection", "hybrid"])
async def test_valid_token_yields_the_same_principal_in_every_mode(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, mode))

    principal = await verifier.verify(idp.grant(auth_time=int(EPOCH) - 5))

    assert principal.issuer == idp.issuer
    assert principal.subject == "00000000-0000-4000-8000-0000000a11ce"
    assert principal.client_id == "gatehouse-console"
    assert principal.scopes == {"read:users"}
    assert principal.roles == {"user"}
    assert principal.expires_at == EPOCH + 300 + 60  # with the leeway
    assert (principal.acr, principal.auth_time) == ("1", int(EPOCH) - 5)


# Choice of the issuer


async def test_each_issuer_has_its_own_audience_keys_and_mode(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    other_idp.rotate("RS256", keep=False)
    verifier = await make_verifier(
        config(idp, algorithms=("ES256",)),
        config(other_idp, "introspection", audience="other-api", algorithms=("RS256",)),
    )

    assert (await verifier.verify(idp.sign())).issuer == idp.issuer
    assert (await verifier.verify(other_idp.grant(aud="other-api"))).issuer == other_idp.issuer
    assert await refusal(verifier, idp.sign(aud="other-api")) == "audience_mismatch"
    assert await refusal(verifier, other_idp.grant()) == "audience_mismatch"
    assert idp.request_count("introspect") == 0
    assert other_idp.request_count("jwks") == 0


async def test_token_of_an_unknown_issuer_makes_no_request(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    before = len(idp.requests)
    for issuer in ("https://elsewhere.test", idp.issuer + "/", idp.issuer.upper(), idp.url("introspect")):
        assert await refusal(verifier, idp.grant(iss=issuer)) == "issuer_unknown"

    assert len(idp.requests) == before


async def test_opaque_token_is_introspected_by_the_one_introspection_issuer(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    other_idp.activate("opaque")

    assert (await verifier.verify("opaque")).issuer == other_idp.issuer
    assert idp.request_count("introspect") == 0


@pytest.mark.parametrize("modes", [("jwt", "hybrid"), ("introspection", "introspection")])
async def test_opaque_token_is_refused_unless_exactly_one_issuer_introspects(
    modes: tuple[str, str], idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, modes[0]), config(other_idp, modes[1]))
    idp.activate("opaque")
    other_idp.activate("opaque")

    assert await refusal(verifier, "opaque") == "token_malformed"
    assert idp.request_count("introspect") == other_idp.request_count("introspect") == 0


async def test_signed_token_is_not_introspected_by_another_issuer(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    forged = other_idp.sign(iss=idp.issuer)
    other_idp.activate(forged)

    assert await refusal(verifier, forged) == "signature_mismatch"
    assert other_idp.request_count("introspect") == 0


async def test_issuer_can_be_reached_at_another_url(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    """In a container network the URL that browsers use is not the one that services use."""
    outside = "https://id.gatehouse.test/realms/r"
    idp.answer("metadata", lambda _: Reply(idp.metadata() | {"issuer": outside}))
    verifier = await make_verifier(config(idp, "hybrid", issuer=outside, discovery_url=idp.url("metadata")))

    assert (await verifier.verify(idp.grant(iss=outside))).issuer == outside
    assert await refusal(verifier, idp.grant()) == "issuer_unknown"


async def test_metadata_of_another_issuer_is_an_outage(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.answer(METADATA, Reply(idp.metadata() | {"issuer": "https://evil.test"}))
    verifier = await make_verifier(config(idp))

    assert not verifier.ready
    assert await outage(verifier, idp.sign()) == "keys_unavailable"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("x" * 8193, "token_too_long"),
        ("é" * 8193, "token_too_long"),
        ("." * 100_000, "token_too_long"),
        ("é", "token_malformed"),
        ("\ud800", "token_malformed"),
        ("", "token_malformed"),
        ("a b", "token_malformed"),
        ("a\nb", "token_malformed"),
        ("a.b.c.d", "token_malformed"),
        ("....", "token_malformed"),
        ("a=b", "token_malformed"),
    ],
    ids=range(11),
)
async def test_malformed_token_makes_no_request(
    token: str, reason: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection"))
    before = len(idp.requests)

    assert await refusal(verifier, token) == reason
    assert await refusal(verifier, token, online=True) == reason
    assert len(idp.requests) == before


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    token=st.text(alphabet=st.characters(), max_size=60)
    | st.lists(st.text(alphabet="AZaz09-_", max_size=20), min_size=1, max_size=5).map(".".join)
    | st.lists(st.binary(min_size=1, max_size=20).map(b64), min_size=3, max_size=3).map(".".join)
    | st.tuples(
        st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit"]), st.none() | st.text(max_size=5)),
        st.dictionaries(
            st.sampled_from(["iss", "aud", "exp"]), st.none() | st.integers() | st.text(max_size=5)
        ),
    ).map(lambda parts: ".".join(b64(json.dumps(part).encode()) for part in (*parts, {})))
)
async def test_random_token_is_refused_without_other_errors(token: str, make_verifier: MakeVerifier) -> None:
    """None of these tokens names the issuer, so no request is sent."""
    issuer = IssuerSettings(issuer="https://issuer.test", audience=AUDIENCE, mode="jwt")
    verifier = await make_verifier(issuer, start=False)

    await refusal(verifier, token)


# Caching


@pytest.mark.parametrize("mode", ["jwt", "introspection", "hybrid"])
async def test_second_call_is_answered_from_the_cache(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    verifier = await make_verifier(config(idp, mode))
    token = idp.grant()
    first = await verifier.verify(token)

    assert await verifier.verify(token) is first
    assert observer.verifications == {"signature" if mode == "jwt" else "introspection": 1, "cache": 1}
    assert idp.request_count("introspect") == (0 if mode == "jwt" else 1)


async def test_cached_token_expires_by_the_wall_clock_too(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    """The monotonic clock does not advance while a machine is suspended."""
    verifier = await make_verifier(config(idp), monotonic=lambda: 0.0)
    token = idp.sign(exp=EPOCH + 10)
    await verifier.verify(token)
    manual_time.advance(70)

    assert await refusal(verifier, token) == "token_expired"


async def test_tokens_of_a_withdrawn_key_are_refused_within_the_budget(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp))
    token = idp.sign()
    await verifier.verify(token)
    idp.rotate(keep=False)
    await manual_time.until_sleeping()
    manual_time.advance(270.0)
    await eventually(lambda: idp.request_count("jwks") == 2)
    await manual_time.until_sleeping(270.0)

    assert await refusal(verifier, token) == "key_unknown"


@pytest.mark.parametrize("mode", ["jwt", "hybrid"])
async def test_verified_token_keeps_only_its_text(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, mode))
    for text in (idp.grant(), idp.grant(aud="other")):
        token = PresentedToken(text)
        assert token.jws in gc.get_referents(token)
        with suppress(InvalidToken):
            await verifier.verify(token)
        assert not any(isinstance(held, tuple) for held in gc.get_referents(token))


# Hybrid mode: signature, then introspection


async def test_forged_token_is_refused_without_introspection(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    forged = SigningKey.make(idp.keys[0].kid).sign(idp.claims())
    idp.activate(forged)

    assert await refusal(verifier, forged) == "signature_mismatch"
    assert await refusal(verifier, forged, online=True) == "signature_mismatch"
    assert idp.request_count("introspect") == 0


async def test_revoked_signed_token_is_refused(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    token = idp.grant()
    await verifier.verify(token)
    idp.revoke(token)
    assert await refusal(verifier, token, online=True) == "token_inactive"
    assert await refusal(verifier, token) == "token_inactive"

    other = idp.grant()
    await verifier.verify(other)
    idp.revoke(other)
    manual_time.advance(29.9)
    assert await verifier.verify(other)
    manual_time.advance(0.1)
    assert await refusal(verifier, other) == "token_inactive"


async def test_introspection_updates_roles_but_not_scopes_acr_or_auth_time(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    claims = idp.claims(
        scope="read:users delete:users",
        acr="pwd",
        auth_time=int(EPOCH) - 900,
        realm_access={"roles": ["user", "admin"]},
        resource_access={"gatehouse-api": {"roles": ["auditor"]}},
    )
    token = idp.keys[0].sign(claims)
    idp.activate(
        token,
        claims,
        scope="read:users",
        acr="mfa",
        auth_time=int(EPOCH) - 1,
        realm_access={"roles": ["user"]},
        resource_access={"gatehouse-api": {"roles": ["reader"]}},
    )
    principal = await verifier.verify(token)

    assert principal.roles == {"user"}
    assert principal.client_roles == {"gatehouse-api": {"reader"}}
    assert principal.scopes == {"read:users", "delete:users"}
    assert (principal.acr, principal.auth_time) == ("pwd", int(EPOCH) - 900)


async def test_keycloak_response_without_roles_removes_all_roles(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    claims = idp.claims(realm_access={"roles": ["admin"]})
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, realm_access=...)

    assert (await verifier.verify(token)).roles == frozenset()


async def test_roles_of_the_token_are_kept_if_introspection_omits_them(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid", provider="okta"))
    claims = idp.claims(scp=["read:users"], cid="console", groups=["Admins"], typ=..., scope=...)
    token = idp.keys[0].sign(claims)
    introspected = {"token_type": "Bearer", "client_id": "console", "scope": "read:users"}
    idp.activate(token, idp.claims(typ=..., azp=..., scope=...) | introspected)

    principal = await verifier.verify(token)
    assert principal.roles == {"Admins"}
    assert principal.scopes == {"read:users"}


@pytest.mark.parametrize(("signed", "answered", "end"), [(300, 100, 100), (100, 300, 100)])
async def test_token_expires_at_the_earlier_of_both_expiry_times(
    signed: int, answered: int, end: int, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    claims = idp.claims(exp=EPOCH + signed)
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, exp=EPOCH + answered)

    assert (await verifier.verify(token)).expires_at == EPOCH + end + 60


@pytest.mark.parametrize(
    ("mode", "changes", "reason"),
    [
        ("introspection", {"sub": "somebody-else"}, "subject_mismatch"),
        ("hybrid", {"sub": "somebody-else"}, "subject_mismatch"),
        ("hybrid", {"azp": "another-client"}, "client_mismatch"),
        ("hybrid", {"azp": ...}, ""),
    ],
    ids=str,
)
async def test_introspection_response_for_another_subject_or_client_is_refused(
    mode: str, changes: dict[str, Any], reason: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, mode))
    token = idp.grant()
    idp.activate(token, **changes)

    if reason:
        assert await refusal(verifier, token) == reason
    else:
        assert (await verifier.verify(token)).client_id == "gatehouse-console"


async def test_online_verification_without_introspection_is_an_outage(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp))
    token = idp.sign()
    await verifier.verify(token)

    assert await outage(verifier, token, online=True) == "introspection_not_configured"
    assert await verifier.verify(token)


# Key rotation and outages under load


class Callers:
    """Five concurrent callers that verify `tokens` in turn, until the context ends."""

    def __init__(self, verifier: Verifier) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self.tokens: list[str] = []
        self._verifier = verifier
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(5)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def more(self, calls: int) -> None:
        """Wait for `calls` more calls."""
        target = self.calls + calls
        await eventually(lambda: self.calls >= target, 30)

    async def _call(self, number: int) -> None:
        while not self._stopped:
            token = self.tokens[number % len(self.tokens)]
            number += 1
            try:
                await self._verifier.verify(token)
            except (InvalidToken, IssuerUnavailable) as error:
                self.failures.append(error.reason)
            self.calls += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("mode", ["jwt", "hybrid"])
async def test_key_rotation_under_load_fails_no_call(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, mode, revocation_budget_seconds=0))
    callers = Callers(verifier)
    callers.tokens = [idp.grant()]
    async with callers:
        for _ in range(4):
            await callers.more(50)
            manual_time.advance(30.0)  # ends the cooldown for unknown keys, before the next refresh
            idp.rotate()
            callers.tokens = [*callers.tokens, idp.grant(exp=EPOCH + 10_000)]
            await callers.more(50)

    assert callers.failures == []
    assert idp.request_count("jwks") == 5


async def test_outage_under_load_fails_no_signed_token(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, revocation_budget_seconds=0))
    callers = Callers(verifier)
    callers.tokens = [idp.sign(exp=EPOCH + 100_000) for _ in range(5)]
    async with callers:
        await callers.more(50)
        await idp.stop()
        for _ in range(5):
            await callers.more(50)
            manual_time.advance(270.0)
            callers.tokens = [*callers.tokens, idp.sign(exp=EPOCH + 100_000)]
        await callers.more(50)
        unknown = SigningKey.make("unknown").sign(idp.claims())
        async with Stopwatch() as watch:
            assert await outage(verifier, unknown) == "keys_unavailable"
        assert watch.seconds < 1.0

        await idp.start()
        key = idp.rotate()
        manual_time.advance(30.0)
        callers.tokens = [*callers.tokens, key.sign(idp.claims(exp=EPOCH + 100_000))]
        await callers.more(50)

    assert callers.failures == []
    assert verifier.ready


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_outage_under_load_fails_no_token_within_its_budget(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, mode))
    known, unknown = idp.grant(exp=EPOCH + 1_000), idp.grant(exp=EPOCH + 1_000)
    await verifier.verify(known)
    callers = Callers(verifier)
    callers.tokens = [known]
    async with callers:
        await callers.more(50)
        await idp.stop()
        await callers.more(50)
        async with Stopwatch() as watch:
            for _ in range(10):
                await outage(verifier, unknown)
        assert watch.seconds < 1.0
        manual_time.advance(29.0)
        await callers.more(50)
        assert callers.failures == []
        manual_time.advance(1.0)
        await eventually(lambda: bool(callers.failures))
    assert set(callers.failures) <= {"introspection_unreachable", "circuit_open"}

    await idp.start()
    manual_time.advance(5.0)
    assert await verifier.verify(known)
    assert await verifier.verify(unknown)


async def test_outage_of_one_issuer_does_not_affect_another(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"), config(other_idp, "hybrid"))
    await idp.stop()
    for _ in range(20):
        await outage(verifier, idp.grant())

    for _ in range(5):
        assert await verifier.verify(other_idp.grant())


# Start and close


async def test_ready_needs_one_issuer(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    await other_idp.stop()
    both = await make_verifier(config(idp, "introspection"), config(other_idp, "introspection"))
    assert both.ready
    assert await both.verify(idp.grant())
    await both.aclose()

    verifier = await make_verifier(config(other_idp, "introspection"))
    assert not verifier.ready


async def test_aclose_stops_all_background_work(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    await other_idp.stop()

    def working() -> set[str]:
        names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
        return {name for name in names if name.startswith(("KeySet.", "Endpoints."))}

    verifier = await make_verifier(config(idp, "hybrid"), config(other_idp, "introspection"))
    assert working() == {"KeySet._refresh_forever", "Endpoints._search_introspection"}
    idp.hold(METADATA)
    idp.answer("introspect", Reply(b"", 404))
    assert await outage(verifier, idp.grant()) == "introspection_gone"
    assert "Endpoints._discover" in working()
    await verifier.aclose()

    assert working() == set()
    idp.release(METADATA)


async def test_aclose_before_start_does_nothing(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    verifier = await make_verifier(config(idp, "hybrid"), start=False)

    await verifier.aclose()


async def test_two_issuers_with_the_same_url_are_refused(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    with pytest.raises(ValueError, match="two issuers have the same URL"):
        await make_verifier(config(idp), config(idp, audience="other"))


async def test_empty_list_of_issuers_is_refused(make_verifier: MakeVerifier) -> None:
    with pytest.raises(ValueError, match="at least one issuer is required"):
        await make_verifier()


async def test_system_clock_is_the_default(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.clock = time.time
    verifier = Verifier([config(idp)], http=http)
    await verifier.start()
    assert (await verifier.verify(idp.sign())).scopes == {"read:users"}
    await verifier.aclose()
