"""Hostile introspection responses, for opaque tokens and for signed ones in mode `hybrid`.

The table is in answers.py. Each row runs on the verifier, and as a call of a server with this verifier.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from gatehouse.oauth import IssuerUnavailable, OAuthError, PresentedToken
from gatehouse.rpc import AccessRule
from tests.hostile.answers import ROWS, AnswerRow
from tests.hostile.forge import CANARY, Forge
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_fixtures import Verifier, config, tls_context
from tests.support.oauth_issuers import LoopbackIssuer, loopback_issuer
from tests.support.rpc import PROBE, Env, error_info, open_env

pytestmark = pytest.mark.asyncio(loop_scope="module")
RULE = AccessRule(scopes=frozenset({"use:probe"}), roles=frozenset({"operator"}))
CODES = {
    "": grpc.StatusCode.OK,
    "insufficient_scope": grpc.StatusCode.PERMISSION_DENIED,
    "role_missing": grpc.StatusCode.PERMISSION_DENIED,
    "outage": grpc.StatusCode.UNAVAILABLE,
}
_numbers = itertools.count(1)


class Guard:
    """A server whose issuers answer each token as a test wants: one in each mode that introspects."""

    def __init__(self, opaque: LoopbackIssuer, hybrid: LoopbackIssuer) -> None:
        self.opaque = Forge(opaque)
        self.hybrid = Forge(hybrid)
        self.answers: dict[str, Mapping[str, Any] | Reply] = {}
        for issuer in (opaque, hybrid):
            issuer.answer("introspect", self._answer)
        self.verifier: Verifier
        self.env: Env

    def _answer(self, request: Request) -> Reply:
        answer = self.answers[request.form["token"]]
        return answer if isinstance(answer, Reply) else Reply(answer)

    async def reason_for(self, token: str) -> str:
        """Return why the verifier, or the rule, refuses a token, or "" if both accept it."""
        try:
            principal = await self.verifier.verify(
                PresentedToken(token), precheck=lambda known: RULE.check_token(known, 0)
            )
            RULE.check(principal, 0)
        except IssuerUnavailable as error:
            return "outage" if error.reason.startswith("introspection_") else error.reason
        except OAuthError as error:
            return str(error)
        return ""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guard() -> AsyncIterator[Guard]:
    async with (
        loopback_issuer() as opaque,
        loopback_issuer() as hybrid,
        httpx.AsyncClient(trust_env=False, verify=tls_context()) as http,
    ):
        guard = Guard(opaque, hybrid)
        configs = [config(opaque, "introspection"), config(hybrid, "hybrid")]
        guard.verifier = Verifier(configs, http=http, answer_seconds=60.0)
        await guard.verifier.start()
        async with open_env(token_verifier=guard.verifier, method_scopes={f"{PROBE}/Unary": RULE}) as env:
            guard.env = env
            yield guard
        await guard.verifier.aclose()


async def check(guard: Guard, token: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Verify a token and make a call with it; both must end with `reason`, and log no claim."""
    caplog.set_level(logging.INFO)

    assert await guard.reason_for(token) == reason

    name = f"answer-{next(_numbers)}"
    metadata = [("authorization", f"Bearer {token}"), ("x-request-id", name)]
    code, trailers, _ = await guard.env.client.outcome("Unary", "a", metadata=metadata)
    assert code is CODES.get(reason, grpc.StatusCode.UNAUTHENTICATED)
    if reason:
        expected = "ISSUER_UNAVAILABLE" if reason == "outage" else reason.upper()
        assert error_info(trailers).reason == expected
        line = await guard.env.line_of(name)
        if reason in CODES:  # the token is valid, so the line names the caller
            line = {name: value for name, value in line.items() if name not in {"client_id", "subject"}}
        assert CANARY not in json.dumps(line) + caplog.text


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_answer_about_an_opaque_token(
    row: AnswerRow, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    token = f"opaque-{next(_numbers)}"
    guard.answers[token] = row.answer({"active": True} | guard.opaque.claims())

    await check(guard, token, row.opaque, caplog)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_answer_about_a_signed_token(
    row: AnswerRow, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    truth = guard.hybrid.claims()
    token = guard.hybrid.token(claims={**truth, **row.claims})
    guard.answers[token] = row.answer({"active": True} | truth)

    await check(guard, token, row.hybrid, caplog)


async def test_table_names_each_row_once_with_its_source() -> None:
    repeated = [name for name, count in Counter(row.name for row in ROWS).items() if count > 1]
    assert repeated == []
    assert all(row.source for row in ROWS)
    assert sum(row.hybrid == "" for row in ROWS) >= 5
