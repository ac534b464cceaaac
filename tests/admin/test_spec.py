"""How AdminService is built from its settings."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from gatehouse.admin.clients import exchanged_tokens
from gatehouse.admin.service import call_users
from gatehouse.admin.settings import AdminSettings
from gatehouse.admin.spec import build
from gatehouse.domain import Unavailable
from gatehouse.oauth import TokenRequestFailed
from gatehouse.rpc import AccessRule
from gatehouse.runtime import ServiceContext
from gatehouse.settings import ConfigurationError, IssuerSettings, TlsSettings
from gatehouse.storage import Database
from gatehouse.users.v1 import users_pb2
from tests.support.environment import SetEnvironment
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer
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
            http_for=lambda _: http,
            issuer_asked=lambda *_: None,
            client_tls=TlsSettings(plaintext=True),
            channel_options=(),
            rules={},
            logger=quiet(),
            tracer=NoOpTracer(),
            meter=NoOpMeter("test"),
            clock=time.time,
            monotonic=time.monotonic,
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


async def test_exchange_is_requested_as_the_settings_say(
    context: ServiceContext[Any], idp: LoopbackIssuer
) -> None:
    client = CLIENT | {"scope": "api/read:users", "audience": "users", "resource": "https://r.test"}
    asked: list[tuple[str, str, str]] = []
    exchanged = exchanged_tokens(
        replace(
            context,
            settings=AdminSettings.model_validate({"client": client}),
            issuers=[IssuerSettings(issuer=idp.issuer, audience="api", mode="jwt", scope_prefix="api/")],
            issuer_asked=lambda issuer, use, error: asked.append((issuer, use, str(error))),
            rules={"/a.v1.A/Get": AccessRule(scopes=frozenset({"admin"}))},
        )
    )
    wide = Reply({"access_token": "a", "token_type": "Bearer", "scope": "api/read:users api/admin"})
    idp.answer("token", wide)
    with pytest.raises(TokenRequestFailed, match="scope_widened"):
        await exchanged.source("alice", math.inf).token()
    assert idp.last("token").basic == ("gatehouse-admin-service", "canary")
    form = idp.last("token").form
    assert {name: form[name] for name in ("subject_token", "scope", "audience", "resource")} == {
        "subject_token": "alice",
        "scope": "api/read:users",
        "audience": "users",
        "resource": "https://r.test",
    }
    assert asked == [(idp.issuer, "token exchange of gatehouse-admin-service", "scope_widened")]


async def test_role_changes_are_delivered_with_the_own_token_in_any_case(
    context: ServiceContext[Any],
) -> None:
    role_sync = {"admin_url": URL, "client_secret": "canary"}
    settings = {"client": CLIENT, "role_sync": role_sync, "call_users_as": "caller"}
    built: Any = await build(replace(context, settings=AdminSettings.model_validate(settings)))
    assert built.background[1]._users is not built.servicer._users


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "CLIENT__CLIENT_ID and GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET: required"),
        (
            {"client": CLIENT | {"scope": " "}, "call_users_as": "caller"},
            "CLIENT__SCOPE: required by GATEHOUSE_ADMIN__CALL_USERS_AS=caller",
        ),
        (
            {"client": CLIENT | {"issuer": "https://other.test"}, "call_users_as": "caller"},
            "CLIENT__ISSUER: not in GATEHOUSE_ISSUERS",
        ),
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


async def test_tokens_are_requested_with_audience_resource_and_the_secret_of_today(
    context: ServiceContext[Any], idp: LoopbackIssuer, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    file = tmp_path / "gatehouse_admin__client__client_secret"
    file.write_text("canary-old")
    set_environment(GATEHOUSE_SECRETS_DIR=str(tmp_path))
    asked: list[tuple[str, str, str]] = []
    client = {
        "client_id": "admin",
        "client_secret": "canary-old",
        "issuer": idp.issuer,
        "audience": "https://api.test",
        "resource": "https://r.test",
    }
    built = await build(
        replace(
            context,
            settings=AdminSettings.model_validate({"client": client, "users_target": "127.0.0.1:1"}),
            issuer_asked=lambda issuer, use, error: asked.append((issuer, use, str(error))),
        )
    )
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    file.write_text("canary-new")
    service: Any = built.servicer
    with pytest.raises(Unavailable) as caught:
        await call_users(service._users.CountUsers, users_pb2.CountUsersRequest(), 60.0)

    assert (caught.value.reason, caught.value.cause) == ("USER_SERVICE_UNAVAILABLE", "NO_ACCESS_TOKEN")
    assert idp.last("token").basic == ("admin", "canary-new")
    assert idp.last("token").form == {
        "grant_type": "client_credentials",
        "scope": "read:users",
        "audience": "https://api.test",
        "resource": "https://r.test",
    }
    assert asked == [(idp.issuer, "token of admin", "invalid_client")]
