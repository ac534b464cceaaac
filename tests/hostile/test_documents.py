"""Hostile key sets and metadata, one row each; the tables are in documents.py."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import nullcontext

import httpx
import pytest
import pytest_asyncio

from gatehouse.oauth import OAuthError
from tests.hostile.documents import KEY_SETS, METADATA_ROWS, DocumentRow
from tests.hostile.forge import CANARY
from tests.support.oauth_fixtures import Verifier, config, tls_context
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, loopback_issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def issuer() -> AsyncIterator[LoopbackIssuer]:
    async with loopback_issuer() as issuer:
        yield issuer


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=tls_context()) as client:
        yield client


@pytest.mark.parametrize(
    ("endpoint", "row"),
    [*(("jwks", row) for row in KEY_SETS), *((METADATA, row) for row in METADATA_ROWS)],
    ids=str,
)
async def test_hostile_document(
    endpoint: str,
    row: DocumentRow,
    issuer: LoopbackIssuer,
    http: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gatehouse")
    original = issuer.handler(endpoint)
    issuer.answer(endpoint, lambda _: row.reply(issuer))
    verifier = Verifier([config(issuer)], http=http, answer_seconds=60.0)
    try:
        await verifier.start()
        assert verifier.ready == (row.reason != "keys_unavailable")
        with pytest.raises(OAuthError, match=row.reason) if row.reason else nullcontext():
            await verifier.verify(issuer.sign())
    finally:
        await verifier.aclose()
        issuer.answer(endpoint, original)
    assert CANARY not in caplog.text
    assert {request.path for request in issuer.requests} <= {
        "/realms/test/jwks",
        f"/realms/test/{METADATA}",
        # The place of RFC 8414, after an HTTP error.
        "/.well-known/oauth-authorization-server/realms/test",
    }


async def test_tables_name_each_row_once_with_its_source() -> None:
    rows = [*KEY_SETS, *METADATA_ROWS]
    repeated = [name for name, count in Counter(row.name for row in rows).items() if count > 1]
    assert repeated == []
    assert all(row.source for row in rows)
