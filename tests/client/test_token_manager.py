"""The token manager, with the client credentials grant: renewal, outages, and tokens that services reject."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol
from urllib.parse import parse_qsl

import httpx
import pytest

from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    ClientSecretPost,
    OAuthClient,
    TokenManager,
    TokenSource,
)
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime

FORM = {"grant_type": "client_credentials"}
LIFETIME = 300.0


class NoJitter(random.Random):
    """No jitter of the renewal, and the longest backoff."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0 if a < 0 else b


class MakeSource(Protocol):
    def __call__(self, **changes: Any) -> TokenManager: ...


@pytest.fixture
def numbered(idp: LoopbackIssuer) -> Callable[[Request], Reply]:
    """Answer token requests with token-1, token-2, ..."""

    def reply(_: Request) -> Reply:
        token = f"token-{idp.request_count('token')}"
        return Reply({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME})

    idp.answer("token", reply)
    return reply


@pytest.fixture
async def make_source(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> AsyncIterator[MakeSource]:
    async with AsyncExitStack() as stack:

        def make(**changes: Any) -> TokenManager:
            at: dict[str, Any] = {"token_endpoint": idp.url("token"), "clock": manual_time.clock}
            at |= {
                name: changes.pop(name)
                for name in ("token_endpoint", "issuer", "discovery_url")
                if name in changes
            }
            auth = changes.pop("auth", ClientSecretBasic("secret"))
            kept: dict[str, Any] = {"monotonic": manual_time.monotonic, "rng": NoJitter()}
            kept |= {name: changes.pop(name) for name in ("rng", "on_response") if name in changes}
            source = TokenManager(
                ClientCredentials(OAuthClient(http, "worker", auth, **at), **changes), **kept
            )
            stack.push_async_callback(source.aclose)
            return source

        yield make


@pytest.fixture
def source(make_source: MakeSource, numbered: object) -> TokenManager:
    del numbered
    return make_source()


async def test_token_is_requested_once_and_used_until_its_renewal(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    assert [await source.token() for _ in range(3)] == ["token-1"] * 3
    manual_time.advance(LIFETIME * 0.8 - 0.001)
    assert await source.token() == "token-1"
    assert idp.request_count("token") == 1
    assert idp.last("token").basic == ("worker", "secret")
    assert idp.last("token").form == FORM


async def test_scope_is_requested(make_source: MakeSource, idp: LoopbackIssuer) -> None:
    await make_source(scope="read:users admin").token()

    assert idp.last("token").form == FORM | {"scope": "read:users admin"}


async def test_token_endpoint_is_discovered_once(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object, manual_time: ManualTime
) -> None:
    source = make_source(token_endpoint=None, issuer=idp.issuer)
    assert await source.token() == "token-1"
    manual_time.advance(LIFETIME)
    assert await source.token() == "token-2"

    assert idp.request_count(".well-known/openid-configuration") == 1


async def test_token_endpoint_is_discovered_at_the_discovery_url(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object
) -> None:
    outside = "https://id.gatehouse.test/realms/r"
    idp.answer("metadata", Reply(idp.metadata() | {"issuer": outside}))
    source = make_source(token_endpoint=None, issuer=outside, discovery_url=idp.url("metadata"))

    assert await source.token() == "token-1"


async def test_issuer_without_a_token_endpoint_is_unavailable(
    make_source: MakeSource, idp: LoopbackIssuer
) -> None:
    metadata = idp.metadata()
    del metadata["token_endpoint"]
    idp.answer(".well-known/openid-configuration", Reply(metadata))

    with pytest.raises(IssuerUnavailable, match="token_endpoint_missing"):
        await make_source(token_endpoint=None, issuer=idp.issuer).token()


async def test_concurrent_callers_share_one_request(source: TokenSource, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    waiting = [asyncio.create_task(source.token()) for _ in range(500)]
    await eventually(lambda: idp.request_count("token") == 1)
    idp.release("token")

    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert idp.request_count("token") == 1


async def test_old_token_is_used_during_its_renewal(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    await source.token()
    manual_time.advance(LIFETIME * 0.8)
    idp.hold("token")
    assert [await source.token() for _ in range(50)] == ["token-1"] * 50
    await eventually(lambda: idp.request_count("token") == 2)
    assert await source.token() == "token-1"
    idp.release("token")
    async with asyncio.timeout(5):
        while await source.token() == "token-1":
            await asyncio.sleep(0.001)

    assert await source.token() == "token-2"
    assert idp.request_count("token") == 2


async def test_expired_token_is_not_used(
    source: TokenManager, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    await source.token()
    manual_time.advance(LIFETIME - 0.001)
    assert await source.token() == "token-1"
    await eventually(lambda: idp.request_count("token") == 2)
    await eventually(lambda: not source._flight.busy(None))
    manual_time.advance(LIFETIME)

    assert await source.token() == "token-3"


async def test_lifetime_starts_at_the_request(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.hold("token")
    waiting = asyncio.create_task(source.token())
    await eventually(lambda: idp.request_count("token") == 1)
    manual_time.advance(100)
    idp.release("token")
    await waiting
    manual_time.advance(200)

    assert await source.token() == "token-2"


async def test_renewals_of_many_clients_are_spread(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object, manual_time: ManualTime
) -> None:
    """Each renews at its own time, between 75 and 85 percent of the lifetime."""
    sources = [make_source(rng=random.Random(seed)) for seed in range(20)]
    for source in sources:
        await source.token()
    moments = []
    manual_time.advance(LIFETIME * 0.75 - 0.001)
    for _ in range(31):
        asked = idp.request_count("token")
        for source in sources:
            await source.token()
        await eventually(lambda: not any(source._flight.busy(None) for source in sources))
        moments.append(idp.request_count("token") - asked)
        manual_time.advance(1.0)

    assert moments[0] == 0
    assert sum(moments) == 20
    assert max(moments) <= 5
    assert sum(count > 0 for count in moments) >= 8


async def test_old_token_is_used_during_an_outage_and_requests_back_off(
    source: TokenManager, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    await source.token()
    idp.answer("token", Reply(b"", 503))
    manual_time.advance(LIFETIME * 0.8)
    for asked, rest in ((2, 1.0), (3, 2.0), (4, 4.0)):
        assert [await source.token() for _ in range(10)] == ["token-1"] * 10
        await eventually(lambda asked=asked: idp.request_count("token") == asked)  # type: ignore[misc]
        await eventually(lambda: not source._flight.busy(None))
        manual_time.advance(rest - 0.001)
        assert await source.token() == "token-1"
        assert idp.request_count("token") == asked
        manual_time.advance(0.001)

    # It expires while the endpoint is unavailable; later a new one is requested.
    manual_time.advance(LIFETIME)
    with pytest.raises(IssuerUnavailable, match="token_endpoint_busy"):
        await source.token()
    idp.answer("token", numbered)
    with pytest.raises(IssuerUnavailable, match="token_endpoint_busy"):
        await source.token()
    manual_time.advance(30)
    assert await source.token() == "token-6"


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_respected(
    status: int, source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    idp.answer("token", Reply(b"", status, {"retry-after": "120"}))
    with pytest.raises(IssuerUnavailable) as caught:
        await source.token()
    assert caught.value.retry_after == 120.0
    idp.answer("token", numbered)
    manual_time.advance(119.999)
    for _ in range(10):
        with pytest.raises(IssuerUnavailable):
            await source.token()
    assert idp.request_count("token") == 1
    manual_time.advance(0.001)

    assert await source.token() == "token-2"


async def test_refused_request_backs_off(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    for _ in range(20):
        with pytest.raises(TokenRequestFailed, match="invalid_client"):
            await source.token()
    assert idp.request_count("token") == 1
    idp.answer("token", numbered)
    manual_time.advance(1.0)

    assert await source.token() == "token-2"


async def test_concurrent_callers_share_one_failed_request(source: TokenSource, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    waiting = [asyncio.create_task(source.token()) for _ in range(100)]
    await eventually(lambda: idp.request_count("token") == 1)
    idp.release("token")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {str(outcome) for outcome in outcomes} == {"invalid_client"}
    assert idp.request_count("token") == 1


async def test_rejected_token_is_replaced_at_once(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    source.invalidate("token-1")
    source.invalidate("")
    assert await source.token() == "token-1"
    source.invalidate("token-1")
    source.invalidate("token-1")
    assert await source.token() == "token-2"

    # A late rejection of the old token changes nothing.
    source.invalidate("token-1")
    assert await source.token() == "token-2"
    assert idp.request_count("token") == 2


async def test_new_tokens_that_are_all_rejected_do_not_flood_the_endpoint(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    """Such as with a wrong audience: no new token is better than the one before."""
    for _ in range(1_000):
        source.invalidate(await source.token())
    assert idp.request_count("token") == 2

    for asked, kept in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], start=2):
        assert await source.token() == f"token-{asked}"
        manual_time.advance(kept - 0.001)
        source.invalidate(f"token-{asked}")
        assert await source.token() == f"token-{asked}"
        manual_time.advance(0.001)
        source.invalidate(f"token-{asked}")
        assert await source.token() == f"token-{asked + 1}"

    # A token that was used for a while is replaced at once.
    manual_time.advance(60.0)
    source.invalidate("token-9")
    assert await source.token() == "token-10"
    manual_time.advance(1.0)
    source.invalidate("token-10")
    assert await source.token() == "token-11"


async def test_closing_cancels_a_renewal(source: TokenManager, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    waiting = asyncio.create_task(source.token())
    await eventually(lambda: idp.request_count("token") == 1)
    await source.aclose()

    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting
    idp.release("token")


async def test_failure_that_is_raised_again_has_no_old_traceback(
    source: TokenSource, idp: LoopbackIssuer
) -> None:
    """The traceback would grow with each call, and keep the objects of its frames alive."""
    idp.answer("token", Reply(b"", 503))
    depths = []
    for _ in range(5):
        with pytest.raises(IssuerUnavailable) as caught:
            await source.token()
        depths.append(len(caught.traceback))

    assert len(set(depths[1:])) == 1


def test_repr_contains_no_secret_and_no_token(make_source: MakeSource) -> None:
    for auth in (ClientSecretBasic("canary"), ClientSecretPost("canary")):
        assert "canary" not in repr(make_source(auth=auth)) + repr(auth) + repr(
            auth.credentials("worker", "")
        )


async def test_token_endpoint_that_moves_is_discovered_again(
    make_source: MakeSource,
    numbered: Callable[[Request], Reply],
    idp: LoopbackIssuer,
    manual_time: ManualTime,
) -> None:
    source = make_source(token_endpoint=None, issuer=idp.issuer)
    assert await source.token() == "token-1"
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    idp.answer("moved", lambda _: Reply({"access_token": "other", "token_type": "Bearer"}))
    idp.answer(METADATA, Reply(idp.metadata() | {"token_endpoint": idp.url("moved")}))
    manual_time.advance(LIFETIME)
    with pytest.raises(TokenRequestFailed, match="invalid_client"):
        await source.token()
    manual_time.advance(1.0)
    assert await source.token() == "other"


async def test_known_token_endpoint_is_used_while_metadata_is_unavailable(
    make_source: MakeSource,
    numbered: Callable[[Request], Reply],
    idp: LoopbackIssuer,
    manual_time: ManualTime,
) -> None:
    source = make_source(token_endpoint=None, issuer=idp.issuer)
    assert await source.token() == "token-1"
    idp.answer("token", Reply(status=503))
    idp.answer(METADATA, Reply(status=503))
    manual_time.advance(LIFETIME)
    with pytest.raises(IssuerUnavailable):
        await source.token()
    idp.answer("token", numbered)
    manual_time.advance(1.0)
    assert await source.token() == "token-3"


async def test_audience_and_resources_are_requested(
    make_source: MakeSource, numbered: object, idp: LoopbackIssuer
) -> None:
    source = make_source(
        scope="a b", audience="https://api.test", resource="https://r.test/1 https://r.test/2"
    )
    await source.token()
    assert parse_qsl(idp.last("token").content.decode()) == [
        ("grant_type", "client_credentials"),
        ("scope", "a b"),
        ("audience", "https://api.test"),
        ("resource", "https://r.test/1"),
        ("resource", "https://r.test/2"),
    ]


async def test_each_request_is_reported_and_reads_the_secret_again(
    make_source: MakeSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    secrets, reports = ["old", "new"], []
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    source = make_source(
        auth=ClientSecretBasic(lambda: secrets.pop(0)),
        on_response=lambda error: reports.append((str(error), error.detail) if error else ""),
    )
    with pytest.raises(TokenRequestFailed):
        await source.token()
    assert idp.last("token").basic == ("worker", "old")
    idp.answer("token", lambda _: Reply({"access_token": "good", "token_type": "Bearer"}))
    manual_time.advance(1.0)
    assert await source.token() == "good"
    assert idp.last("token").basic == ("worker", "new")
    assert reports == [("invalid_client", f"{idp.url('token')}: HTTP 401 (invalid_client)"), ""]


async def test_secret_can_be_sent_in_the_form(
    make_source: MakeSource, numbered: object, idp: LoopbackIssuer
) -> None:
    assert await make_source(auth=ClientSecretPost("s:%")).token() == "token-1"
    assert "authorization" not in idp.last("token").headers
    assert idp.last("token").form == FORM | {"client_id": "worker", "client_secret": "s:%"}


@pytest.mark.parametrize(("lifetime", "renewed_at"), [(1000, 800), (300, 240), (120, 84), (40, 20), (1, 0.5)])
async def test_token_is_renewed_thirty_seconds_before_its_end_if_that_is_earlier(
    lifetime: float, renewed_at: float, make_source: MakeSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.answer("token", Reply({"access_token": "token", "token_type": "Bearer", "expires_in": lifetime}))
    source = make_source()
    await source.token()
    manual_time.advance(renewed_at - 0.001)
    await source.token()
    assert not source._flight.busy(None)
    manual_time.advance(0.001)
    await source.token()
    assert source._flight.busy(None)
