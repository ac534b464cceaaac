"""Endpoints of an issuer that are configured, or discovered, or move."""

from __future__ import annotations

import pytest

from gatehouse.oauth import IssuerUnavailable
from gatehouse.oauth._endpoints import REDISCOVERY_SECONDS
from gatehouse.oauth.introspection import FAILED_SECONDS
from gatehouse.oauth.keys import ABSENT_SECONDS
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import (
    CountingObserver,
    MakeVerifier,
    Verifier,
    config,
    outage,
    refusal,
)
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"))


def leave_out(endpoint: str, idp: LoopbackIssuer) -> None:
    """Answer with metadata without `endpoint`."""
    idp.answer(METADATA, Reply({k: v for k, v in idp.metadata().items() if k != endpoint}))


def is_discovering(verifier: Verifier, idp: LoopbackIssuer) -> bool:
    """Return whether metadata is being fetched."""
    return verifier._issuers[idp.issuer]._endpoints._discovery.busy(None)


async def test_start_fetches_the_metadata_of_an_introspection_issuer(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert verifier.ready
    assert [request.path for request in idp.requests] == [f"/realms/test/{METADATA}"]


async def test_failed_discovery_is_reported_and_retried_with_backoff(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime, observer: CountingObserver
) -> None:
    await idp.stop()
    verifier = await make_verifier(config(idp, "introspection"))
    for pause in (1.0, 2.0, 4.0):
        await manual_time.until_sleeping(pause)
        manual_time.advance(pause)
    await manual_time.until_sleeping(8.0)
    assert observer.asked == [("introspection", "discovery_unreachable")] * 4
    assert not verifier.ready

    await idp.start()
    manual_time.advance(8.0)
    await eventually(lambda: verifier.ready)
    assert await verifier.verify(idp.grant())


@pytest.mark.parametrize(
    ("mode", "left_out"), [("jwt", "introspection_endpoint"), ("hybrid", "revocation_endpoint")]
)
async def test_metadata_with_all_endpoints_that_the_mode_needs_is_fetched_once(
    mode: str,
    left_out: str,
    idp: LoopbackIssuer,
    make_verifier: MakeVerifier,
    manual_time: ManualTime,
    observer: CountingObserver,
) -> None:
    leave_out(left_out, idp)
    verifier = await make_verifier(config(idp, mode))
    for fetches in (1, 2, 3):
        await manual_time.until_sleeping(270.0)
        assert idp.request_count("jwks") == fetches
        manual_time.advance(270.0)
    assert await verifier.verify(idp.grant())

    assert idp.request_count(METADATA) == 1
    assert {error for _, error in observer.asked} == {""}


@pytest.mark.parametrize(
    ("mode", "pause", "asked"), [("introspection", 1.0, "introspection"), ("hybrid", 270.0, "keys")]
)
async def test_introspection_endpoint_that_the_metadata_lacks_is_found_once_it_is_added(
    mode: str,
    pause: float,
    asked: str,
    idp: LoopbackIssuer,
    make_verifier: MakeVerifier,
    manual_time: ManualTime,
    observer: CountingObserver,
) -> None:
    leave_out("introspection_endpoint", idp)
    verifier = await make_verifier(config(idp, mode))
    await manual_time.until_sleeping(pause)
    assert not verifier.ready
    assert observer.asked.count(("introspection", "introspection_endpoint_missing")) == 1
    assert await outage(verifier, idp.grant()) == "introspection_endpoint_missing"
    await eventually(lambda: not is_discovering(verifier, idp))

    idp.answer(METADATA, lambda _: Reply(idp.metadata()))
    observer.asked.clear()
    manual_time.advance(pause)
    await eventually(lambda: observer.asked == [(asked, "")])
    assert verifier.ready
    assert await verifier.verify(idp.grant())


async def test_configured_endpoint_needs_no_metadata(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    given = config(idp, "introspection", introspection_endpoint=idp.url("introspect"))
    verifier = await make_verifier(given)
    idp.activate("opaque")

    assert verifier.ready
    assert await verifier.verify("opaque")
    assert idp.request_count(METADATA) == 0


async def test_moved_endpoint_is_discovered(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    original = idp.handler("introspect")
    idp.activate("opaque")
    idp.answer("introspect", Reply(b"", 404))
    idp.answer("moved", original)
    metadata = idp.metadata() | {"introspection_endpoint": idp.url("moved")}
    idp.answer(METADATA, Reply(metadata))

    assert await outage(verifier, "opaque") == "introspection_gone"
    await eventually(lambda: idp.request_count(METADATA) == 2)
    await eventually(lambda: not is_discovering(verifier, idp))
    manual_time.advance(FAILED_SECONDS)
    assert await verifier.verify("opaque")


async def test_endpoint_that_moves_to_another_host_is_discovered(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    """Nothing answers at the old address any more."""
    idp.answer(METADATA, Reply(idp.metadata() | {"introspection_endpoint": other_idp.url("introspect")}))
    verifier = await make_verifier(config(idp, "introspection"))
    await other_idp.stop()
    idp.answer(METADATA, lambda _: Reply(idp.metadata()))
    idp.activate("opaque")

    assert await outage(verifier, "opaque") == "introspection_unreachable"
    await eventually(lambda: idp.request_count(METADATA) == 2 and not is_discovering(verifier, idp))
    manual_time.advance(FAILED_SECONDS)
    assert await verifier.verify("opaque")


async def test_rediscovery_is_limited_to_once_in_five_seconds(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 404))

    async def look(number: int) -> int:
        assert await outage(verifier, f"token-{number}") == "introspection_gone"
        await eventually(lambda: not is_discovering(verifier, idp))
        return idp.request_count(METADATA)

    assert [await look(number) for number in range(5)] == [2] * 5
    manual_time.advance(REDISCOVERY_SECONDS)
    assert [await look(number) for number in range(5)] == [3] * 5
    assert REDISCOVERY_SECONDS == 5.0


async def test_configured_endpoint_is_not_rediscovered(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", introspection_endpoint=idp.url("nowhere")))

    assert await outage(verifier, "opaque") == "introspection_gone"
    assert [request.path for request in idp.requests] == ["/realms/test/nowhere"]
    assert not is_discovering(verifier, idp)


async def test_moved_jwks_uri_is_discovered_at_once(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    verifier = await make_verifier(config(idp))
    metadata = idp.metadata() | {"jwks_uri": idp.url("certs")}
    idp.answer("jwks", Reply({"error": "gone"}, 410))
    idp.answer("certs", lambda _: Reply(idp.jwks()))
    idp.answer(METADATA, Reply(metadata))
    key = idp.rotate()

    assert await verifier.verify(key.sign(idp.claims()))
    assert idp.request_count("certs") == 1


async def test_moved_jwks_uri_is_discovered_while_the_old_one_is_still_served(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp))
    idp.answer("jwks", Reply(idp.jwks()))
    idp.answer("certs", lambda _: Reply(idp.jwks()))
    idp.answer(METADATA, Reply(idp.metadata() | {"jwks_uri": idp.url("certs")}))
    token = idp.rotate().sign(idp.claims())

    assert await refusal(verifier, token) == "key_unknown"
    manual_time.advance(ABSENT_SECONDS)
    assert await verifier.verify(token)
    assert idp.request_count(METADATA) == 2


async def test_known_jwks_uri_is_used_while_metadata_is_unavailable(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp))
    jwks = idp.handler("jwks")
    idp.answer("jwks", Reply(b"", 503))
    idp.answer(METADATA, Reply(b"", 503))
    key = idp.rotate()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(key.sign(idp.claims()))

    idp.answer("jwks", jwks)
    manual_time.advance(30.0)
    assert await verifier.verify(key.sign(idp.claims()))


@pytest.mark.parametrize(("mode", "requests"), [("jwt", 0), ("hybrid", 1)])
async def test_configured_jwks_uri_needs_metadata_only_for_introspection(
    mode: str, requests: int, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, mode, jwks_uri=idp.url("jwks")))
    assert verifier.ready
    assert idp.request_count(METADATA) == 0

    assert await verifier.verify(idp.grant())
    assert idp.request_count(METADATA) == requests


async def test_issuer_without_keys_is_not_ready(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    leave_out("jwks_uri", idp)
    verifier = await make_verifier(config(idp))

    assert not verifier.ready
    assert observer.asked == [("keys", "jwks_uri_missing")]
