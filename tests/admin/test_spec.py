"""How AdminService is built from its settings."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from gatehouse.admin.settings import AdminSettings
from gatehouse.admin.spec import build
from gatehouse.runtime import ServiceContext
from gatehouse.settings import ConfigurationError, IssuerSettings, TlsSettings
from gatehouse.storage import Database
from tests.support.services import quiet

CLIENT = {"client_id": "gatehouse-admin-service", "client_secret": "canary"}
URL = "https://id.test/admin/realms/r"


@pytest.fixture
async def context() -> AsyncIterator[ServiceContext[Any]]:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing")  # `build` does not connect
    async with AsyncExitStack() as stack, httpx.AsyncClient() as http:
        yield ServiceContext(
            settings=AdminSettings(),
            database=database,
            issuers=[IssuerSettings(issuer="https://id.test/realms/r", audience="gatehouse-api", mode="jwt")],
            http=http,
            client_tls=TlsSettings(plaintext=True),
            rules={},
            logger=quiet(),
            tracer=NoOpTracer(),
            meter=NoOpMeter("test"),
            clock=time.time,
            exit_stack=stack,
        )
    await database.aclose()


@pytest.mark.parametrize(
    ("role_sync", "workers"), [({}, 0), ({"admin_url": URL, "client_secret": "canary"}, 2)]
)
async def test_role_changes_are_delivered_if_the_admin_url_is_set(
    context: ServiceContext[Any], role_sync: dict[str, str], workers: int
) -> None:
    settings = AdminSettings.model_validate({"client": CLIENT, "role_sync": role_sync})
    built = await build(replace(context, settings=settings))
    assert len(built.background) == workers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "CLIENT__CLIENT_ID and GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET: required"),
        (
            {"client": CLIENT, "role_sync": {"admin_url": URL}},
            "ROLE_SYNC__CLIENT_ID and GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET: required",
        ),
        (
            {
                "client": CLIENT,
                "role_sync": {"admin_url": "http://id.test/admin/realms/r", "client_secret": "canary"},
            },
            "ROLE_SYNC__ADMIN_URL: url_not_https",
        ),
        (
            {"client": CLIENT, "role_sync": {"admin_url": "nonsense", "client_secret": "canary"}},
            "ROLE_SYNC__ADMIN_URL: url_malformed",
        ),
    ],
)
async def test_invalid_settings_are_reported_by_name(
    context: ServiceContext[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await build(replace(context, settings=AdminSettings.model_validate(settings)))
    assert str(caught.value).startswith(f"GATEHOUSE_ADMIN__{message}")
    assert "canary" not in str(caught.value)
