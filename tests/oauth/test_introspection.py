"""Introspection (RFC 7662): requests, responses, caching, sharing and timeouts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from gatehouse.oauth.introspection import FAILED_SECONDS, INACTIVE_SECONDS, REMEMBERED
from gatehouse.oauth.multi_issuer import CACHE_SIZE
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import (
    ANSWER_SECONDS,
    CountingObserver,
    MakeVerifier,
    Stopwatch,
    Verifier,
    config,
    outage,
    refusal,
)
from tests.support.oauth_issuers import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    EPOCH,
    METADATA,
    LoopbackIssuer,
    ManualTime,
)

TIMEOUTS = {"introspection_timeout", "issuer_timeout"}


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"))


@pytest.fixture
async def default_timeout_verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)


# Requests and valid responses


async def test_introspection_request_follows_rfc_7662(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("opaque-1")
    await verifier.verify("opaque-1")

    request = idp.last("introspect")
    assert request.method == "POST"
    assert request.basic == (CLIENT_ID, CLIENT_SECRET)
    assert request.form == {"token": "opaque-1", "token_type_hint": "access_token"}


@pytest.mark.parametrize(
    "changes",
    [{"iss": ...}, {"aud": ["other", AUDIENCE]}, {"exp": EPOCH - 59.9}, {"nbf": EPOCH + 60}, {"iat": ...}],
    ids=str,
)
async def test_unusual_but_valid_response_is_accepted(
    changes: dict[str, Any], idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque", **changes)

    assert (await verifier.verify("opaque")).issuer == idp.issuer


async def test_acr_and_auth_time_are_those_of_the_token(idp: LoopbackIssuer, verifier: Verifier) -> None:
    claims = idp.claims(acr="pwd", auth_time=int(EPOCH) - 900)
    token = idp.keys[0].sign(claims)
    idp.activate(token, claims, acr="mfa", auth_time=int(EPOCH) - 1)
    principal = await verifier.verify(token)

    assert (principal.acr, principal.auth_time) == ("pwd", int(EPOCH) - 900)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"exp": EPOCH - 61}, "token_expired"), ({"aud": "other"}, "audience_mismatch")],
    ids=["expired", "audience"],
)
async def test_signed_token_that_is_not_valid_by_its_own_claims_causes_no_request(
    changes: dict[str, Any], reason: str, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    token = idp.sign(**changes)
    idp.activate(token)

    assert await refusal(verifier, token) == reason
    assert await refusal(verifier, token, online=True) == reason
    assert idp.request_count("introspect") == 0


# Bad responses


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
async def test_bad_response_is_an_outage_and_is_cached_for_half_a_second(
    reply: Reply,
    reason: str,
    online: bool,
    idp: LoopbackIssuer,
    verifier: Verifier,
    manual_time: ManualTime,
    observer: CountingObserver,
) -> None:
    original = idp.handler("introspect")
    observer.asked.clear()
    idp.activate("opaque")
    idp.answer("introspect", reply)
    assert await outage(verifier, "opaque", online=online) == reason

    idp.answer("introspect", original)
    manual_time.advance(FAILED_SECONDS - 0.001)
    assert await outage(verifier, "opaque") == reason
    assert await outage(verifier, "opaque", online=True) == reason
    assert idp.request_count("introspect") == 1
    manual_time.advance(0.001)
    assert await verifier.verify("opaque", online=online)
    assert observer.asked == [("introspection", reason), ("introspection", "")]
    assert FAILED_SECONDS == 0.5


async def test_cached_token_is_accepted_during_an_outage(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.activate("cached")
    await verifier.verify("cached")
    await idp.stop()

    assert await verifier.verify("cached")
    assert await outage(verifier, "cached", online=True) == "introspection_unreachable"
    assert await verifier.verify("cached")
    assert await outage(verifier, "new") == "introspection_unreachable"


async def test_cached_token_is_not_accepted_beyond_its_budget_during_an_outage(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("cached")
    await verifier.verify("cached")
    await idp.stop()
    manual_time.advance(30.0)

    assert await outage(verifier, "cached") == "introspection_unreachable"


async def test_refused_token_stays_refused_during_an_outage(idp: LoopbackIssuer, verifier: Verifier) -> None:
    assert await refusal(verifier, "invalid") == "token_inactive"
    await idp.stop()

    assert await refusal(verifier, "invalid") == "token_inactive"


async def test_client_secret_is_read_again_when_its_file_changes(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(CLIENT_SECRET)
    given = config(idp, "introspection", client_secret=None, client_secret_file=file)
    verifier = await make_verifier(given)
    idp.activate("first")
    assert await verifier.verify("first")

    idp.secret = "canary:rotated"
    for number, content in enumerate((CLIENT_SECRET, "", None)):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        assert await outage(verifier, f"token-{number}") == "introspection_refused"
    file.write_text("canary:rotated\n")
    idp.activate("second")
    assert await verifier.verify("second")


# Caching


async def test_active_token_is_cached_for_exactly_the_revocation_budget(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime, observer: CountingObserver
) -> None:
    idp.activate("opaque")
    await verifier.verify("opaque")
    idp.revoke("opaque")
    manual_time.advance(29.999)
    assert await verifier.verify("opaque")
    assert idp.request_count("introspect") == 1
    assert observer.verifications == {"introspection": 1, "cache": 1}

    manual_time.advance(0.001)
    assert await refusal(verifier, "opaque") == "token_inactive"
    assert idp.request_count("introspect") == 2


async def test_active_token_is_not_cached_beyond_its_expiry(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("brief", exp=EPOCH - 50)
    await verifier.verify("brief")
    manual_time.advance(9.999)
    await verifier.verify("brief")
    assert idp.request_count("introspect") == 1

    manual_time.advance(0.001)
    assert await refusal(verifier, "brief") == "token_expired"
    assert idp.request_count("introspect") == 2


@pytest.mark.parametrize("budget", [0.0, 5.0])
async def test_revocation_budget_is_configured_per_issuer(
    budget: float, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "introspection", revocation_budget_seconds=budget))
    idp.activate("opaque")
    for _ in range(3):
        await verifier.verify("opaque")
    assert idp.request_count("introspect") == (1 if budget else 3)

    manual_time.advance(budget)
    await verifier.verify("opaque")
    assert idp.request_count("introspect") == (2 if budget else 4)


async def test_budget_counts_from_the_request(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("opaque")
    idp.hold("introspect")
    verifying = asyncio.create_task(verifier.verify("opaque"))
    await eventually(lambda: idp.request_count("introspect") == 1)
    manual_time.advance(20)
    idp.release("introspect")
    await verifying
    manual_time.advance(10)

    await verifier.verify("opaque")
    assert idp.request_count("introspect") == 2


async def test_online_verification_asks_each_time_and_sees_a_revocation_at_once(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque")
    for count in (1, 2, 3):
        await verifier.verify("opaque", online=True)
        assert idp.request_count("introspect") == count
    await verifier.verify("opaque")
    assert idp.request_count("introspect") == 3

    idp.revoke("opaque")
    assert await refusal(verifier, "opaque", online=True) == "token_inactive"
    assert await refusal(verifier, "opaque") == "token_inactive"


async def test_online_verification_does_not_share_an_earlier_request(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    """The response to it may be older than a revocation that must be seen."""
    idp.activate("opaque")
    idp.hold("introspect")
    first = asyncio.create_task(verifier.verify("opaque"))
    await eventually(lambda: idp.request_count("introspect") == 1)
    online = asyncio.create_task(verifier.verify("opaque", online=True))
    await eventually(lambda: idp.request_count("introspect") == 2)
    idp.release("introspect")

    await asyncio.gather(first, online)


async def test_refused_token_is_introspected_again_after_ten_seconds(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    for _ in range(5):
        assert await refusal(verifier, "opaque") == "token_inactive"
    assert idp.request_count("introspect") == 1

    idp.activate("opaque")
    manual_time.advance(INACTIVE_SECONDS - 0.001)
    assert await refusal(verifier, "opaque") == "token_inactive"
    manual_time.advance(0.001)
    assert await verifier.verify("opaque")
    assert INACTIVE_SECONDS == 10.0


@pytest.mark.parametrize("budget", [0.0, 30.0])
async def test_online_verification_ignores_a_cached_refusal(
    budget: float, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", revocation_budget_seconds=budget))
    assert await refusal(verifier, "opaque") == "token_inactive"
    idp.activate("opaque")

    assert await verifier.verify("opaque", online=True)
    assert await verifier.verify("opaque")


async def test_invalid_tokens_do_not_evict_valid_ones(idp: LoopbackIssuer, verifier: Verifier) -> None:
    valid = [f"valid-{number}" for number in range(20)]
    for token in valid:
        idp.activate(token)
        await verifier.verify(token)
    introspection = verifier._issuers[idp.issuer]._introspection
    assert introspection is not None
    for number in range(REMEMBERED):  # as many requests would take long
        introspection._inactive.put(b"%d" % number, "token_inactive", INACTIVE_SECONDS)
    for number in range(20):
        assert await refusal(verifier, f"invalid-{number}") == "token_inactive"
    before = idp.request_count("introspect")

    for token in valid:
        assert await verifier.verify(token)
    assert idp.request_count("introspect") == before
    assert len(introspection._inactive) == REMEMBERED == 1_000
    assert len(verifier._cache) == len(valid)


def test_cache_holds_ten_thousand_tokens() -> None:
    assert CACHE_SIZE == 10_000


async def test_cached_token_does_not_answer_for_a_similar_one(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque", scope="admin")
    await verifier.verify("opaque")

    for other in ("opaque=", "Opaque", "opaqu", "opaque-"):
        assert await refusal(verifier, other) == "token_inactive"


# Concurrent calls


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_concurrent_calls_with_one_new_token_share_one_introspection(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    verifier = await make_verifier(config(idp, mode))
    token = idp.grant()
    idp.hold("introspect")
    waiting = [asyncio.create_task(verifier.verify(token)) for _ in range(100)]
    await eventually(lambda: idp.request_count("introspect") == 1)
    idp.release("introspect")
    principals = await asyncio.gather(*waiting)

    assert len({id(principal) for principal in principals}) == 1
    assert idp.request_count("introspect") == 1
    assert observer.verifications == {"introspection": 1, "cache": 99}


async def test_concurrent_calls_with_one_invalid_token_share_one_introspection(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.hold("introspect")
    waiting = [asyncio.create_task(verifier.verify("invalid")) for _ in range(100)]
    await eventually(lambda: idp.request_count("introspect") == 1)
    idp.release("introspect")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(outcome, InvalidToken) for outcome in outcomes)
    assert idp.request_count("introspect") == 1


async def test_cancelled_caller_does_not_cancel_the_shared_introspection(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    idp.activate("opaque")
    idp.hold("introspect")
    first = asyncio.create_task(verifier.verify("opaque"))
    await eventually(lambda: idp.request_count("introspect") == 1)
    second = asyncio.create_task(verifier.verify("opaque"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    idp.release("introspect")

    assert await second
    assert idp.request_count("introspect") == 1


async def test_aclose_cancels_an_introspection_in_progress(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.hold("introspect")
    waiting = asyncio.create_task(verifier.verify("opaque"))
    await eventually(lambda: idp.request_count("introspect") == 1)
    await verifier.aclose()

    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting
    idp.release("introspect")


# Timeouts


async def test_hanging_issuer_is_an_outage_within_a_second(
    idp: LoopbackIssuer, default_timeout_verifier: Verifier
) -> None:
    verifier = default_timeout_verifier
    idp.activate("cached")
    await verifier.verify("cached")
    idp.hold("introspect")
    async with Stopwatch() as watch:
        waiting = [asyncio.create_task(verifier.verify("new")) for _ in range(1_000)]
        await eventually(lambda: idp.request_count("introspect") == 2)
        assert await verifier.verify("cached")
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {str(outcome) for outcome in outcomes} <= TIMEOUTS
    assert watch.seconds < 1.0
    assert idp.request_count("introspect") == 2
    idp.release("introspect")


async def test_slow_response_is_an_outage_within_a_second(
    idp: LoopbackIssuer, default_timeout_verifier: Verifier
) -> None:
    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    idp.answer("introspect", lambda _: Reply(stream=drip()))
    async with Stopwatch() as watch:
        assert await outage(default_timeout_verifier, "opaque") in TIMEOUTS

    assert watch.seconds < 1.0


async def test_hanging_metadata_is_an_outage_within_a_second(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.hold(METADATA)
    verifier = await make_verifier(config(idp, "introspection"), start=False, answer_seconds=ANSWER_SECONDS)
    async with Stopwatch() as watch:
        assert await outage(verifier, "opaque") in TIMEOUTS

    assert watch.seconds < 1.0
    idp.release(METADATA)


async def test_late_metadata_is_used_by_later_calls(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    idp.hold(METADATA)
    verifier = await make_verifier(config(idp, "introspection"), start=False, answer_seconds=0.05)
    assert await outage(verifier, "opaque") in TIMEOUTS
    idp.release(METADATA)

    await eventually(lambda: verifier.ready)
    assert idp.request_count(METADATA) == 1


def test_answer_timeout_is_less_than_a_second() -> None:
    assert ANSWER_SECONDS < 1.0
