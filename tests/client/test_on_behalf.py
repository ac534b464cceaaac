"""Exchanged tokens of many callers: one request for each, bounded in number and in time."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from gatehouse.client import ClientSecretBasic, ExchangedTokens, OAuthClient, TokenSource
from gatehouse.oauth import OAuthError, TokenRequestFailed
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import LoopbackIssuer, ManualTime


class Exchange:
    """ExchangedTokens at an issuer whose tokens live for 300 s and name the subject token and a number."""

    def __init__(self, http: httpx.AsyncClient, idp: LoopbackIssuer, time: ManualTime) -> None:
        self.time = time
        self.started = time.clock()
        self.asked: list[str] = []
        self.answers: list[OAuthError | None] = []
        self.granted = "read:users"
        idp.answer("token", self._answer)
        self.tokens = ExchangedTokens(
            OAuthClient(http, "service", ClientSecretBasic("secret"), issuer=idp.issuer),
            "read:users",
            sensitive_scopes=["read:users", "admin"],
            on_response=self.answers.append,
            clock=time.clock,
            monotonic=time.monotonic,
        )

    def _answer(self, request: Request) -> Reply:
        assert request.form["scope"] == "read:users"
        self.asked.append(request.form["subject_token"])
        token = f"for-{self.asked[-1]}-{len(self.asked)}"
        body = {"access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": self.granted}
        return Reply(body)

    async def token(self, subject: str, lifetime: float = 1000.0) -> str:
        """Return the token for a caller whose own ends `lifetime` seconds from the start of the test."""
        return await self.tokens.source(subject, self.started + lifetime).token()


@pytest.fixture
def exchange(http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime) -> Exchange:
    return Exchange(http, idp, manual_time)


async def test_each_caller_gets_a_token_with_one_request(exchange: Exchange) -> None:
    found = await asyncio.gather(*(exchange.token(subject) for subject in ["alice", "bob"] * 20))
    assert {token.rpartition("-")[0] for token in found} == {"for-alice", "for-bob"}
    assert sorted(exchange.asked) == ["alice", "bob"]


@pytest.mark.parametrize(("lifetime", "ends"), [(100, 100), (1000, 300)], ids=["caller", "exchanged"])
async def test_exchanged_token_ends_with_the_token_that_ends_first(
    exchange: Exchange, lifetime: float, ends: float
) -> None:
    first = await exchange.token("alice", lifetime)
    exchange.time.advance(ends / 2)
    source = exchange.tokens.source("alice", exchange.started + lifetime)
    assert await source.token() == first
    exchange.time.advance(ends / 2)
    assert await source.token() != first
    kept = exchange.tokens.source("alice", exchange.started + lifetime) is source
    assert kept == (ends < lifetime)


def test_source_is_kept_for_the_last_thousand_callers(exchange: Exchange) -> None:
    def source(caller: object) -> TokenSource:
        return exchange.tokens.source(str(caller), exchange.started + 1000.0)

    first = source("first")
    for number in range(999):
        source(number)
    assert source("first") is first
    for number in range(1000):
        source(f"new-{number}")
    assert source("first") is not first


async def test_response_that_grants_more_than_was_requested_is_refused(exchange: Exchange) -> None:
    exchange.granted = "read:users admin"
    with pytest.raises(TokenRequestFailed, match="scope_widened"):
        await exchange.token("alice")
    assert [str(error) for error in exchange.answers] == ["scope_widened"]
    exchange.granted = "read:users profile"  # opens nothing
    assert await exchange.token("bob") == "for-bob-2"


async def test_refused_token_of_a_caller_is_no_fault_of_the_issuer(
    exchange: Exchange, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply({"error": "invalid_request"}, 400))
    with pytest.raises(TokenRequestFailed, match="invalid_request"):
        await exchange.token("alice")
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    with pytest.raises(TokenRequestFailed, match="invalid_client"):
        await exchange.token("bob")
    assert [str(error) for error in exchange.answers] == ["None", "invalid_client"]
