"""Tokens that the issuer is asked about (RFC 7662): what is believed, kept, shared and given up."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from gatehouse.oauth._issuer_verifier import REDISCOVERY_SECONDS
from gatehouse.oauth.introspection import FAILED_SECONDS, INACTIVE_SECONDS, INACTIVE_SIZE
from gatehouse.oauth.multi_issuer import ANSWER_SECONDS, CACHE_SIZE
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
    CLIENT_ID,
    CLIENT_SECRET,
    EPOCH,
    LoopbackIssuer,
    ManualTime,
    Reply,
    until,
)


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"))


TIMEOUTS = {"introspection_timeout", "issuer_timeout"}


@pytest.fixture
async def prompt(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    """Verifier with their real patience."""
    return await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)


async def refused(verifier: Verifier, token: str, **more: Any) -> str:
    with pytest.raises(InvalidToken) as caught:
        await verifier.verify(token, **more)
    return reason_of(caught)


async def unavailable(verifier: Verifier, token: str, **more: Any) -> str:
    with pytest.raises(IssuerUnavailable) as caught:
        await verifier.verify(token, **more)
    return reason_of(caught)


# What is asked and believed.


async def test_issuer_is_asked_as_rfc_7662_has_it(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("opaque-1")
    await verifier.verify("opaque-1")

    request = idp.last("introspect")
    assert request.method == "POST"
    assert request.basic == (CLIENT_ID, CLIENT_SECRET)
    assert request.form == {"token": "opaque-1", "token_type_hint": "access_token"}


@pytest.mark.parametrize("active", [False, None, "true", "True", "", 1, 0, 1.0, [], [True], {}, {"a": True}])
async def test_active_must_be_the_boolean_true(active: Any, idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("opaque", active=active)

    assert await refused(verifier, "opaque") == "token_inactive"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://elsewhere.test"}, "issuer_mismatch"),
        ({"iss": None}, "issuer_mismatch"),
        ({"iss": ""}, "issuer_mismatch"),
        ({"aud": ...}, "audience_mismatch"),
        ({"aud": "other"}, "audience_mismatch"),
        ({"aud": ["other", "Gatehouse-api"]}, "audience_mismatch"),
        ({"aud": None}, "audience_mismatch"),
        ({"exp": ...}, "expiry_missing"),
        ({"exp": "1900000000"}, "claim_malformed"),
        ({"exp": True}, "claim_malformed"),
        ({"exp": -1}, "claim_malformed"),
        ({"exp": EPOCH - 60}, "token_expired"),
        ({"nbf": EPOCH + 61}, "token_not_yet_valid"),
        ({"iat": EPOCH + 61}, "token_not_yet_valid"),
        ({"nbf": "0"}, "claim_malformed"),
        ({"sub": ...}, "subject_missing"),
        ({"typ": "ID"}, "token_type_mismatch"),
        ({"typ": "Refresh"}, "token_type_mismatch"),
        ({"typ": ...}, "token_type_mismatch"),
        ({"cnf": {"jkt": "AAAA"}}, "proof_of_possession_missing"),
    ],
    ids=str,
)
async def test_active_token_must_also_be_for_here_and_now(
    changes: dict[str, Any], reason: str, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque", **changes)

    assert await refused(verifier, "opaque") == reason


@pytest.mark.parametrize(
    "changes",
    [{"iss": ...}, {"aud": ["other", AUDIENCE]}, {"exp": EPOCH - 59.9}, {"nbf": EPOCH + 60}, {"iat": ...}],
    ids=str,
)
async def test_answer_may_be_so(changes: dict[str, Any], idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("opaque", **changes)

    assert (await verifier.verify("opaque")).issuer == idp.issuer


async def test_login_is_what_the_token_says_and_not_the_session_of_now(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    claims = idp.claims(acr="pwd", auth_time=int(EPOCH) - 900)
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, acr="mfa", auth_time=int(EPOCH) - 1)
    principal = await verifier.verify(token)

    assert (principal.acr, principal.auth_time) == ("pwd", int(EPOCH) - 900)


# What is no answer.


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({"active": True}, 500), "introspection_failed"),
        (Reply({"active": True}, 503), "introspection_failed"),
        (Reply({"active": True}, 429), "introspection_failed"),
        (Reply({"active": True}, 400), "introspection_refused"),
        (Reply({"error": "invalid_client"}, 401), "introspection_refused"),
        (Reply({"error": "access_denied"}, 403), "introspection_refused"),
        (Reply({"active": True}, 201), "introspection_refused"),
        (Reply({"error": "Realm does not exist"}, 404), "introspection_gone"),
        (Reply(b"", 410), "introspection_gone"),
        (Reply(b"", 302, {"location": "/elsewhere"}), "introspection_redirected"),
        (Reply({}), "introspection_malformed"),
        (Reply({"Active": True}), "introspection_malformed"),
        (Reply(b""), "introspection_malformed"),
        (Reply([{"active": True}]), "introspection_malformed"),
        (Reply(b'{"active":false,"active":true}'), "introspection_malformed"),
        (Reply(b'{"active":true', headers={"content-length": "14"}), "introspection_malformed"),
        (Reply({"active": True}, headers={"content-type": "text/html"}), "introspection_malformed"),
        (Reply({"active": True}, headers={"content-encoding": "gzip"}), "introspection_malformed"),
        (Reply(b" " * 70_000), "introspection_body_too_large"),
        (Reply(hang_up=True), "introspection_unreachable"),
        (Reply(raw=b"junk\r\n\r\n"), "introspection_unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("online", [False, True])
async def test_bad_answer_is_unavailable_and_stands_for_half_a_second(
    reply: Reply,
    reason: str,
    online: bool,
    idp: LoopbackIssuer,
    verifier: Verifier,
    manual_time: ManualTime,
) -> None:
    well = idp.answerers["/realms/test/introspect"]
    idp.activate("opaque")
    idp.answer("introspect", reply)
    assert await unavailable(verifier, "opaque", online=online) == reason

    idp.answer("introspect", well)
    manual_time.advance(FAILED_SECONDS - 0.001)
    assert await unavailable(verifier, "opaque") == reason
    assert await unavailable(verifier, "opaque", online=True) == reason
    assert idp.asked("introspect") == 1
    manual_time.advance(0.001)
    assert await verifier.verify("opaque", online=online)
    assert FAILED_SECONDS == 0.5


async def test_outage_does_not_end_what_is_known_good(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("known")
    await verifier.verify("known")
    await idp.down()

    assert await verifier.verify("known")
    assert await unavailable(verifier, "known", online=True) == "introspection_unreachable"
    assert await verifier.verify("known")
    assert await unavailable(verifier, "unknown") == "introspection_unreachable"


async def test_token_once_good_is_not_allowed_in_an_outage_beyond_its_budget(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("known")
    await verifier.verify("known")
    await idp.down()
    manual_time.advance(30.0)

    assert await unavailable(verifier, "known") == "introspection_unreachable"


async def test_refused_token_stays_refused_for_a_moment_of_an_outage(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert await refused(verifier, "junk") == "token_inactive"
    await idp.down()

    assert await refused(verifier, "junk") == "token_inactive"


async def test_issuer_without_an_introspection_endpoint_is_an_outage(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    metadata = idp.metadata()
    del metadata["introspection_endpoint"]
    idp.answer(".well-known/openid-configuration", Reply(metadata))
    verifier = await make_verifier(config(idp, "introspection"))

    assert await unavailable(verifier, "opaque") == "introspection_endpoint_missing"


async def test_endpoint_that_is_given_needs_no_metadata(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    given = config(idp, "introspection", introspection_endpoint=idp.url("introspect"))
    verifier = await make_verifier(given)
    idp.activate("opaque")

    assert verifier.ready
    assert await verifier.verify("opaque")
    assert idp.asked(".well-known/openid-configuration") == 0


async def test_endpoint_that_has_moved_is_found_again(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    well = idp.answerers["/realms/test/introspect"]
    idp.activate("opaque")
    idp.answer("introspect", Reply(b"", 404))
    idp.answer("moved", well)
    metadata = idp.metadata() | {"introspection_endpoint": idp.url("moved")}
    idp.answer(".well-known/openid-configuration", Reply(metadata))

    assert await unavailable(verifier, "opaque") == "introspection_gone"
    await until(lambda: idp.asked(".well-known/openid-configuration") == 2)
    issuer = verifier._issuers[idp.issuer]
    await until(lambda: not issuer._discovery.busy(None))
    manual_time.advance(FAILED_SECONDS)
    assert await verifier.verify("opaque")


async def test_moved_endpoint_is_looked_for_once_in_five_seconds(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 404))
    issuer = verifier._issuers[idp.issuer]

    async def look(number: int) -> int:
        assert await unavailable(verifier, f"token-{number}") == "introspection_gone"
        await until(lambda: not issuer._discovery.busy(None))
        return idp.asked(".well-known/openid-configuration")

    assert [await look(number) for number in range(5)] == [2] * 5
    manual_time.advance(REDISCOVERY_SECONDS)
    assert [await look(number) for number in range(5)] == [3] * 5
    assert REDISCOVERY_SECONDS == 5.0


async def test_endpoint_that_is_given_and_gone_is_not_looked_for(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", introspection_endpoint=idp.url("nowhere")))

    assert await unavailable(verifier, "opaque") == "introspection_gone"
    assert idp.requests[-1].path == "/realms/test/nowhere"
    assert idp.asked(".well-known/openid-configuration") == 0


# What is kept, and for how long.


async def test_good_answer_serves_through_the_revocation_budget_and_no_longer(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime, observer: CountingObserver
) -> None:
    idp.activate("opaque")
    await verifier.verify("opaque")
    idp.revoke("opaque")
    manual_time.advance(29.999)
    assert await verifier.verify("opaque")
    assert idp.asked("introspect") == 1
    assert observer.verifications == {"introspection": 1, "cache": 1}

    manual_time.advance(0.001)
    assert await refused(verifier, "opaque") == "token_inactive"
    assert idp.asked("introspect") == 2


async def test_good_answer_does_not_serve_beyond_the_end_of_the_token(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("brief", exp=EPOCH + 5)
    await verifier.verify("brief")
    manual_time.advance(4.999)
    await verifier.verify("brief")
    assert idp.asked("introspect") == 1

    # Within the leeway it is asked about each time.
    manual_time.advance(0.001)
    await verifier.verify("brief")
    await verifier.verify("brief")
    assert idp.asked("introspect") == 3
    manual_time.advance(60)
    assert await refused(verifier, "brief") == "token_expired"


@pytest.mark.parametrize("budget", [0.0, 5.0])
async def test_budget_is_the_issuers_own(
    budget: float, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "introspection", revocation_budget_seconds=budget))
    idp.activate("opaque")
    for _ in range(3):
        await verifier.verify("opaque")
    assert idp.asked("introspect") == (1 if budget else 3)

    manual_time.advance(budget)
    await verifier.verify("opaque")
    assert idp.asked("introspect") == (2 if budget else 4)


async def test_budget_counts_from_the_question_and_not_from_the_answer(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("opaque")
    idp.hold("introspect")
    verifying = asyncio.create_task(verifier.verify("opaque"))
    await until(lambda: idp.asked("introspect") == 1)
    manual_time.advance(20)
    idp.release("introspect")
    await verifying
    manual_time.advance(10)

    await verifier.verify("opaque")
    assert idp.asked("introspect") == 2


async def test_online_asks_each_time_and_sees_a_revocation_at_once(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque")
    for asked in (1, 2, 3):
        await verifier.verify("opaque", online=True)
        assert idp.asked("introspect") == asked
    await verifier.verify("opaque")
    assert idp.asked("introspect") == 3

    idp.revoke("opaque")
    assert await refused(verifier, "opaque", online=True) == "token_inactive"
    # And nobody else is served from the cache any more.
    assert await refused(verifier, "opaque") == "token_inactive"


async def test_online_does_not_wait_for_a_question_that_is_under_way(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    """Its answer may be older than the revocation that must not be missed."""
    idp.activate("opaque")
    idp.hold("introspect")
    first = asyncio.create_task(verifier.verify("opaque"))
    await until(lambda: idp.asked("introspect") == 1)
    online = asyncio.create_task(verifier.verify("opaque", online=True))
    await until(lambda: idp.asked("introspect") == 2)
    idp.release("introspect")

    await asyncio.gather(first, online)


async def test_refused_token_is_asked_about_again_after_ten_seconds(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    for _ in range(5):
        assert await refused(verifier, "opaque") == "token_inactive"
    assert idp.asked("introspect") == 1

    idp.activate("opaque")
    manual_time.advance(INACTIVE_SECONDS - 0.001)
    assert await refused(verifier, "opaque") == "token_inactive"
    manual_time.advance(0.001)
    assert await verifier.verify("opaque")
    assert INACTIVE_SECONDS <= 10


async def test_online_asks_about_a_refused_token_too(idp: LoopbackIssuer, verifier: Verifier) -> None:
    assert await refused(verifier, "opaque") == "token_inactive"
    idp.activate("opaque")

    assert await verifier.verify("opaque", online=True)
    assert await verifier.verify("opaque")


async def test_junk_pushes_no_good_answer_out(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    good = [f"good-{number}" for number in range(20)]
    for token in good:
        idp.activate(token)
        await verifier.verify(token)
    numbers = itertools.count()

    async def flood() -> None:
        while (number := next(numbers)) < INACTIVE_SIZE + 50:
            assert await refused(verifier, f"junk-{number}") == "token_inactive"

    await asyncio.gather(*(flood() for _ in range(2)))
    asked = idp.asked("introspect")

    for token in good:
        assert await verifier.verify(token)
    assert idp.asked("introspect") == asked
    asking = verifier._issuers[idp.issuer]._introspection
    assert asking is not None
    assert len(asking._inactive) == INACTIVE_SIZE
    assert len(verifier._cache) == len(good)
    # The oldest junk is forgotten first.
    assert await refused(verifier, "junk-0")
    assert idp.asked("introspect") == asked + 1


def test_ten_thousand_answers_are_kept() -> None:
    assert CACHE_SIZE == 10_000


async def test_answer_for_one_token_is_no_answer_for_another(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("opaque", scope="admin")
    await verifier.verify("opaque")

    for other in ("opaque=", "Opaque", "opaqu", "opaque-"):
        assert await refused(verifier, other) == "token_inactive"


# What is shared.


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_thousand_calls_with_one_new_token_make_one_introspection(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    verifier = await make_verifier(config(idp, mode))
    token = idp.grant()
    idp.hold("introspect")
    waiting = [asyncio.create_task(verifier.verify(token)) for _ in range(1_000)]
    await until(lambda: idp.asked("introspect") == 1)
    idp.release("introspect")
    principals = await asyncio.gather(*waiting)

    assert len({id(principal) for principal in principals}) == 1
    assert idp.asked("introspect") == 1
    assert observer.verifications == {"introspection": 1, "cache": 999}


async def test_thousand_calls_with_one_bad_token_make_one_introspection(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.hold("introspect")
    waiting = [asyncio.create_task(verifier.verify("junk")) for _ in range(1_000)]
    await until(lambda: idp.asked("introspect") == 1)
    idp.release("introspect")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(outcome, InvalidToken) for outcome in outcomes)
    assert idp.asked("introspect") == 1


async def test_caller_that_goes_away_takes_no_answer_from_the_others(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque")
    idp.hold("introspect")
    first = asyncio.create_task(verifier.verify("opaque"))
    await until(lambda: idp.asked("introspect") == 1)
    second = asyncio.create_task(verifier.verify("opaque"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    idp.release("introspect")

    assert await second
    assert idp.asked("introspect") == 1


async def test_closing_ends_a_question_under_way(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.hold("introspect")
    waiting = asyncio.create_task(verifier.verify("opaque"))
    await until(lambda: idp.asked("introspect") == 1)
    await verifier.aclose()

    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting
    idp.release("introspect")


# What is given up.


async def test_hanging_issuer_is_an_outage_within_a_second(idp: LoopbackIssuer, prompt: Verifier) -> None:
    """A thousand callers and one question, and nobody waits longer than that."""
    verifier = prompt
    idp.activate("known")
    await verifier.verify("known")
    idp.hold("introspect")
    async with Stopwatch() as watch:
        waiting = [asyncio.create_task(verifier.verify("new")) for _ in range(1_000)]
        await until(lambda: idp.asked("introspect") == 2)
        assert await verifier.verify("known")
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {str(outcome) for outcome in outcomes} <= TIMEOUTS
    assert watch.seconds < 1.0
    assert idp.asked("introspect") == 2
    idp.release("introspect")


async def test_dripping_answer_is_an_outage_within_a_second(idp: LoopbackIssuer, prompt: Verifier) -> None:
    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    idp.answer("introspect", lambda _: Reply(stream=drip()))
    async with Stopwatch() as watch:
        assert await unavailable(prompt, "opaque") in TIMEOUTS

    assert watch.seconds < 1.0


async def test_metadata_that_hangs_is_an_outage_within_a_second(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.hold(".well-known/openid-configuration")
    verifier = await make_verifier(config(idp, "introspection"), start=False, answer_seconds=ANSWER_SECONDS)
    async with Stopwatch() as watch:
        assert await unavailable(verifier, "opaque") in TIMEOUTS

    assert watch.seconds < 1.0
    idp.release(".well-known/openid-configuration")


async def test_metadata_that_comes_late_serves_who_asks_next(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.hold(".well-known/openid-configuration")
    verifier = await make_verifier(config(idp, "introspection"), start=False, answer_seconds=0.05)
    assert await unavailable(verifier, "opaque") in TIMEOUTS
    idp.release(".well-known/openid-configuration")

    await until(lambda: verifier.ready)
    assert idp.asked(".well-known/openid-configuration") == 1


def test_answers_are_due_within_a_second() -> None:
    assert ANSWER_SECONDS < 1.0
