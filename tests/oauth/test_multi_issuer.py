"""Verification of tokens from end to end, over HTTP: which issuer decides, and what is joined."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.oauth import InvalidToken, IssuerConfig, IssuerUnavailable
from tests.support.oauth_fixtures import (
    CountingObserver,
    MakeVerifier,
    Stopwatch,
    Verifier,
    config,
    reason_of,
)
from tests.support.oauth_issuers import (
    AUDIENCE,
    EPOCH,
    LoopbackIssuer,
    ManualTime,
    Reply,
    SigningKey,
    b64,
    until,
)


async def refused(verifier: Verifier, token: str, **more: Any) -> str:
    with pytest.raises(InvalidToken) as caught:
        await verifier.verify(token, **more)
    return reason_of(caught)


async def unavailable(verifier: Verifier, token: str, **more: Any) -> str:
    with pytest.raises(IssuerUnavailable) as caught:
        await verifier.verify(token, **more)
    return reason_of(caught)


@pytest.mark.parametrize("mode", ["jwt", "introspection", "hybrid"])
async def test_good_token_becomes_a_principal_in_every_mode(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, mode))

    principal = await verifier.verify(idp.grant(auth_time=int(EPOCH) - 5))

    assert principal.issuer == idp.issuer
    assert principal.subject == "00000000-0000-4000-8000-0000000a11ce"
    assert principal.client_id == "gatehouse-console"
    assert principal.scopes == {"read:users"}
    assert principal.roles == {"user"}
    assert principal.expires_at == EPOCH + 300
    assert (principal.acr, principal.auth_time) == ("1", int(EPOCH) - 5)
    assert principal.claims["sub"] == principal.subject


# Which issuer decides.


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
    assert await refused(verifier, idp.sign(aud="other-api")) == "audience_mismatch"
    assert await refused(verifier, other_idp.grant()) == "audience_mismatch"
    assert idp.asked("introspect") == 0
    assert other_idp.asked("jwks") == 0


async def test_token_of_an_unknown_issuer_makes_no_request(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    before = len(idp.requests)
    for issuer in ("https://elsewhere.test", idp.issuer + "/", idp.issuer.upper(), idp.url("introspect")):
        assert await refused(verifier, idp.grant(iss=issuer)) == "issuer_unknown"

    assert len(idp.requests) == before


async def test_opaque_token_goes_to_the_one_issuer_that_introspects(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    other_idp.activate("opaque")

    assert (await verifier.verify("opaque")).issuer == other_idp.issuer
    assert idp.asked("introspect") == 0


@pytest.mark.parametrize("modes", [("jwt", "hybrid"), ("introspection", "introspection")])
async def test_opaque_token_is_refused_where_no_single_issuer_could_know_it(
    modes: tuple[str, str], idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, modes[0]), config(other_idp, modes[1]))
    idp.activate("opaque")
    other_idp.activate("opaque")

    assert await refused(verifier, "opaque") == "token_malformed"
    assert idp.asked("introspect") == other_idp.asked("introspect") == 0


async def test_signed_token_is_not_asked_of_another_issuer_as_opaque(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """What the second says of a token in the first one's name counts for nothing."""
    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    forged = other_idp.sign(iss=idp.issuer)
    other_idp.activate(forged)

    assert await refused(verifier, forged) == "signature_mismatch"
    assert other_idp.asked("introspect") == 0


async def test_issuer_is_named_apart_from_where_it_is_reached(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """As in a container network, where the name that browsers see is not the host that services see."""
    outside = "https://id.gatehouse.test/realms/r"
    idp.answer("metadata", lambda _: Reply(idp.metadata() | {"issuer": outside}))
    verifier = await make_verifier(config(idp, "hybrid", issuer=outside, discovery_url=idp.url("metadata")))

    assert (await verifier.verify(idp.grant(iss=outside))).issuer == outside
    assert await refused(verifier, idp.grant()) == "issuer_unknown"


async def test_metadata_of_another_issuer_is_an_outage(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.answer(".well-known/openid-configuration", Reply(idp.metadata() | {"issuer": "https://evil.test"}))
    verifier = await make_verifier(config(idp))

    assert not verifier.ready
    assert await unavailable(verifier, idp.sign()) == "keys_unavailable"


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
async def test_junk_makes_no_request(
    token: str, reason: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection"))
    before = len(idp.requests)

    assert await refused(verifier, token) == reason
    assert await refused(verifier, token, online=True) == reason
    assert len(idp.requests) == before


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
async def test_token_of_any_shape_is_refused_and_never_crashes(
    token: str, make_verifier: MakeVerifier
) -> None:
    """Nothing of such tokens names an issuer that could be asked."""
    silent = IssuerConfig(issuer="https://issuer.test", audience=AUDIENCE, mode="jwt")
    verifier = await make_verifier(silent, start=False)

    await refused(verifier, token)


# The cache before all of them.


@pytest.mark.parametrize("mode", ["jwt", "introspection", "hybrid"])
async def test_second_call_is_served_from_the_cache(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    verifier = await make_verifier(config(idp, mode))
    token = idp.grant()
    first = await verifier.verify(token)

    assert await verifier.verify(token) is first
    assert observer.verifications == {"signature" if mode == "jwt" else "introspection": 1, "cache": 1}
    assert idp.asked("introspect") == (0 if mode == "jwt" else 1)


async def test_cached_token_ends_with_the_wall_clock_too(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    """A machine that slept has a monotonic clock that did not move."""
    verifier = await make_verifier(config(idp), monotonic=lambda: 0.0)
    token = idp.sign(exp=EPOCH + 10)
    await verifier.verify(token)
    manual_time.advance(70)

    assert await refused(verifier, token) == "token_expired"


async def test_revoked_token_is_removed_from_the_cache(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection"))
    token = idp.grant()
    await verifier.verify(token)
    idp.revoke(token)

    assert await refused(verifier, token, online=True) == "token_inactive"
    assert await refused(verifier, token) == "token_inactive"


async def test_key_that_is_withdrawn_ends_its_tokens_within_the_budget(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp))
    token = idp.sign()
    await verifier.verify(token)
    idp.rotate(keep=False)
    await until(lambda: bool(manual_time.pauses))
    manual_time.advance(270.0)
    await until(lambda: idp.asked("jwks") == 2)
    await until(lambda: manual_time.pauses == [270.0])

    assert await refused(verifier, token) == "key_unknown"


# Hybrid: signature first, then introspection.


async def test_forged_token_is_refused_without_asking(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    forged = SigningKey.make(idp.keys[0].kid).sign(idp.claims())
    idp.activate(forged)

    assert await refused(verifier, forged) == "signature_mismatch"
    assert await refused(verifier, forged, online=True) == "signature_mismatch"
    assert idp.asked("introspect") == 0


async def test_well_signed_token_is_refused_once_revoked(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    token = idp.grant()
    await verifier.verify(token)
    idp.revoke(token)
    assert await refused(verifier, token, online=True) == "token_inactive"
    assert await refused(verifier, token) == "token_inactive"

    other = idp.grant()
    await verifier.verify(other)
    idp.revoke(other)
    manual_time.advance(29.9)
    assert await verifier.verify(other)
    manual_time.advance(0.1)
    assert await refused(verifier, other) == "token_inactive"


async def test_roles_are_those_of_today_and_scopes_and_login_those_of_the_token(
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


async def test_keycloak_that_names_no_role_has_none_left(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    claims = idp.claims(realm_access={"roles": ["admin"]})
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, realm_access=...)

    assert (await verifier.verify(token)).roles == frozenset()


async def test_roles_stay_the_tokens_own_where_introspection_does_not_tell(
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
async def test_token_ends_when_the_first_of_both_says(
    signed: int, answered: int, end: int, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    claims = idp.claims(exp=EPOCH + signed)
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, exp=EPOCH + answered)

    assert (await verifier.verify(token)).expires_at == EPOCH + end


async def test_answer_about_somebody_else_is_refused(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"))
    token = idp.grant()
    idp.activate(token, sub="somebody-else")

    assert await refused(verifier, token) == "subject_mismatch"


async def test_online_of_an_issuer_that_is_not_introspected_allows_nobody(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp))
    token = idp.sign()
    await verifier.verify(token)

    assert await unavailable(verifier, token, online=True) == "introspection_not_configured"
    assert await verifier.verify(token)


# Rotation and outage, under calls.


class Callers:
    """Callers that bring tokens again and again, until told to stop; what came of each call."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.calls = 0
        self.failures: list[str] = []
        self.tokens: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(5)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def more(self, calls: int) -> None:
        """Waits until there have been so many more calls."""
        target = self.calls + calls
        await until(lambda: self.calls >= target, 30)

    async def _call(self, number: int) -> None:
        while not self._stopped:
            token = self.tokens[number % len(self.tokens)]
            number += 1
            try:
                await self.verifier.verify(token)
            except (InvalidToken, IssuerUnavailable) as error:
                self.failures.append(error.reason)
            self.calls += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("mode", ["jwt", "hybrid"])
async def test_rotation_under_calls_fails_no_valid_token(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, mode, revocation_budget_seconds=0))
    callers = Callers(verifier)
    callers.tokens = [idp.grant()]
    async with callers:
        for _ in range(4):
            await callers.more(50)
            manual_time.advance(30.0)  # as much as a real rotation is apart, and less than a refresh
            idp.rotate()
            callers.tokens = [*callers.tokens, idp.grant(exp=EPOCH + 10_000)]
            await callers.more(50)

    assert callers.failures == []
    assert idp.asked("jwks") == 5


async def test_outage_under_calls_fails_no_signed_token(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, revocation_budget_seconds=0))
    callers = Callers(verifier)
    callers.tokens = [idp.sign(exp=EPOCH + 100_000) for _ in range(5)]
    async with callers:
        await callers.more(50)
        await idp.down()
        for _ in range(5):
            await callers.more(50)
            manual_time.advance(270.0)
            callers.tokens = [*callers.tokens, idp.sign(exp=EPOCH + 100_000)]
        await callers.more(50)
        stranger = SigningKey.make("stranger").sign(idp.claims())
        async with Stopwatch() as watch:
            assert await unavailable(verifier, stranger) == "keys_unavailable"
        assert watch.seconds < 1.0

        await idp.up()
        key = idp.rotate()
        manual_time.advance(30.0)
        callers.tokens = [*callers.tokens, key.sign(idp.claims(exp=EPOCH + 100_000))]
        await callers.more(50)

    assert callers.failures == []
    assert verifier.ready


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_outage_under_calls_fails_no_token_within_its_budget(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, mode))
    known, unknown = idp.grant(exp=EPOCH + 1_000), idp.grant(exp=EPOCH + 1_000)
    await verifier.verify(known)
    callers = Callers(verifier)
    callers.tokens = [known]
    async with callers:
        await callers.more(50)
        await idp.down()
        await callers.more(50)
        async with Stopwatch() as watch:
            for _ in range(10):
                await unavailable(verifier, unknown)
        assert watch.seconds < 1.0
        manual_time.advance(29.0)
        await callers.more(50)
        assert callers.failures == []
        manual_time.advance(1.0)
        await until(lambda: bool(callers.failures))
    assert set(callers.failures) <= {"introspection_unreachable", "circuit_open"}

    # Back again, it is found without help.
    await idp.up()
    manual_time.advance(5.0)
    assert await verifier.verify(known)
    assert await verifier.verify(unknown)


async def test_outage_of_one_issuer_does_not_touch_another(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "hybrid"), config(other_idp, "hybrid"))
    await idp.down()
    for _ in range(20):
        await unavailable(verifier, idp.grant())

    for _ in range(5):
        assert await verifier.verify(other_idp.grant())


# How it begins and ends.


async def test_all_issuers_must_be_ready(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    await other_idp.down()
    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    assert not verifier.ready
    assert await verifier.verify(idp.sign())

    for pause in (1.0, 2.0, 4.0):
        await until(lambda pause=pause: manual_time.pauses[:1] == [pause])  # type: ignore[misc]
        manual_time.advance(pause)
    await until(lambda: manual_time.pauses[:1] == [8.0])
    await other_idp.up()
    manual_time.advance(8.0)
    await until(lambda: verifier.ready)
    other_idp.activate("opaque")
    assert await verifier.verify("opaque")


async def test_start_of_an_introspecting_issuer_asks_for_its_metadata(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection"))

    assert verifier.ready
    assert [request.path for request in idp.requests] == ["/realms/test/.well-known/openid-configuration"]


async def test_closing_ends_all_background_work(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    await other_idp.down()

    def working() -> set[str]:
        names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
        return {name for name in names if name.startswith(("KeySet.", "IssuerVerifier."))}

    verifier = await make_verifier(config(idp), config(other_idp, "introspection"))
    assert working() == {"KeySet._refresh_forever", "IssuerVerifier._discover_until_known"}
    await verifier.aclose()

    assert working() == set()


async def test_closing_before_the_start_is_no_error(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    verifier = await make_verifier(config(idp, "hybrid"), start=False)

    await verifier.aclose()
