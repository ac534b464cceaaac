"""Hostile tokens, one row each: on the verifier, and as calls of a server with this verifier.

The tables are in algorithms.py, headers.py, encodings.py, claims.py and purposes.py. Each refusal must have
exactly the reason of its row, and valid tokens show that the same construction is accepted otherwise.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from google.rpc import status_pb2

from gatehouse import oauth
from gatehouse.oauth import OAuthError, parse_authorization
from gatehouse.rpc import AccessRule
from tests.hostile import algorithms, claims, encodings, headers, purposes
from tests.hostile.forge import CANARY, UNUSABLE, Forge, Row
from tests.support.http2 import open_raw_client
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import Verifier, config, tls_context
from tests.support.oauth_issuers import AUDIENCE, METADATA, ManualTime, SigningKey, loopback_issuer, rsa_key
from tests.support.rpc import PROBE, Env, Text, error_info, open_env

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS = [*algorithms.ROWS, *headers.ROWS, *encodings.ROWS, *claims.ROWS, *purposes.ROWS]
RULE = AccessRule(scopes=frozenset({"use:probe"}), roles=frozenset({"operator"}), acr="mfa", max_age=600)
_numbers = itertools.count(1)
CODES = {
    "": grpc.StatusCode.OK,
    "insufficient_scope": grpc.StatusCode.PERMISSION_DENIED,
    "role_missing": grpc.StatusCode.PERMISSION_DENIED,
}
# The token is valid, although the rule may refuse the call.
VALID = {*CODES, "acr_mismatch", "login_too_old"}


@dataclass
class Guard:
    """A verifier, a server that uses it, and a forge of tokens of its issuer."""

    forge: Forge
    verifier: Verifier
    env: Env
    time: ManualTime


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guard() -> AsyncIterator[Guard]:
    async with (
        loopback_issuer() as issuer,
        httpx.AsyncClient(trust_env=False, verify=tls_context()) as http,
    ):
        issuer.keys = [SigningKey.make("key-1"), SigningKey.make("rsa", "RS256")]
        issuer.keys += [SigningKey("rsa-2", "RS256", rsa_key(2056))]
        issuer.answer("jwks", lambda _: Reply({"keys": [*issuer.jwks()["keys"], *UNUSABLE.values()]}))
        time = ManualTime()
        verifier = Verifier(
            [config(issuer, audience=[AUDIENCE, "second-audience"])], http=http, monotonic=time.monotonic
        )
        await verifier.start()
        async with open_env(token_verifier=verifier, method_scopes={f"{PROBE}/Unary": RULE}) as env:
            yield Guard(Forge(issuer), verifier, env, time)
        await verifier.aclose()


async def reason_for(guard: Guard, token: str) -> str:
    """Return why the verifier, or the rule, refuses a token, or "" if both accept it."""
    now = guard.forge.issuer.clock()
    try:
        principal = await guard.verifier.verify(parse_authorization([f"Bearer {token}"]))
        RULE.check(principal, now)
    except OAuthError as error:
        return str(error)
    return ""


async def called(guard: Guard, token: str, name: str) -> tuple[grpc.StatusCode | None, str]:
    """Make a call with this token and request id; return code and reason, or None if gRPC cuts it."""
    async with open_raw_client(guard.env.port) as client:
        entries = [("authorization", f"Bearer {token}".encode()), ("x-request-id", name)]
        await client.send(*client.headers(1, f"/{PROBE}/Unary", entries))
        await client.send(client.message(1, Text(value="a").SerializeToString()))
        found = await client.outcome(1)
    if "grpc-status" not in found:
        return None, ""
    code = next(code for code in grpc.StatusCode if str(code.value[0]) == found["grpc-status"])
    details = found.get("grpc-status-details-bin")
    if details is None:
        return code, ""
    raw = base64.b64decode(details + "=" * (-len(details) % 4))
    assert status_pb2.Status.FromString(raw).code == code.value[0]
    return code, error_info({"grpc-status-details-bin": raw}).reason


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_hostile_token(row: Row, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard.time.advance(60)  # so that unknown keys of earlier rows do not limit the fetches of this one
    token = row.make(guard.forge)
    requests = len(guard.forge.issuer.requests)

    assert await reason_for(guard, token) == row.reason

    name = f"row-{next(_numbers)}"
    code, reason = await called(guard, token, name)
    if row.illegal and reason == "":
        assert code not in {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
    else:
        expected = CODES.get(row.reason, grpc.StatusCode.UNAUTHENTICATED)
        assert (code, reason) == (expected, row.reason.upper())
        line = await guard.env.line_of(name)
        if row.reason in VALID:  # the line names the caller
            line = {name: value for name, value in line.items() if name not in {"client_id", "subject"}}
        assert CANARY not in json.dumps(line)
        assert not any(len(part) > 8 and part in json.dumps(line) for part in token.split("."))
    assert CANARY not in caplog.text
    # Nothing in a token makes the server send a request, except a key that is not known: perhaps the key set
    # has changed or moved.
    sent = {request.path for request in guard.forge.issuer.requests[requests:]}
    assert sent <= {"/realms/test/jwks", f"/realms/test/{METADATA}"}


async def test_table_names_each_row_once_with_its_source() -> None:
    repeated = [name for name, count in Counter(row.name for row in ROWS).items() if count > 1]
    assert repeated == []
    assert all(row.source for row in ROWS)


async def test_each_reason_in_the_code_has_a_row() -> None:
    source = "".join(path.read_text() for path in Path(oauth.__file__).parent.rglob("*.py"))
    raised = set(re.findall(r'(?:InvalidToken|InvalidRequest)\("(\w+)"\)', source))
    assert len(raised) > 20
    # The others are about several entries or none, or about introspection; see test_answers.py.
    elsewhere = {"token_missing", "authorization_repeated", "token_inactive"}
    elsewhere |= {"issuer_mismatch", "subject_mismatch", "client_mismatch"}
    elsewhere |= {"tenant_not_accepted"}  # see tests/oauth/test_tenants.py
    reasons = Counter(row.reason for row in ROWS)
    assert raised - set(reasons) == elsewhere
    assert reasons[""] >= 40
