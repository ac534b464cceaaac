"""The development issuer as an HTTP server on loopback, with the realm file of the repository."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gatehouse_testbed.issuer import Realm, RunningIssuer, load_realm, run_issuer
from gatehouse_testbed.issuer.keys import SigningKeys
from tests.support.oauth_fixtures import tls_context

REALM_FILE = Path(__file__).resolve().parents[2] / "keycloak" / "gatehouse-realm.json"
ADMIN_PASSWORD = "for-tests-only"
SECRETS = {
    name: f"{name.removeprefix('gatehouse-')}-demo-secret"
    for name in (
        "gatehouse-api",
        "gatehouse-admin-service",
        # <part admin>
        "gatehouse-role-sync",
        # </part admin>
        "gatehouse-worker",
        "gatehouse-elsewhere",
        "gatehouse-brief",
    )
}


class Clock:
    """A clock that can be moved forward."""

    def __init__(self) -> None:
        import time

        self._time = time.time
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._time() + self.ahead


@dataclass(repr=False)  # asyncio asks for it after every fixture, and that of a realm is long
class LiveIssuer:
    """A running issuer, with helpers for its endpoints."""

    running: RunningIssuer
    realm: Realm
    clock: Clock
    http: httpx.AsyncClient

    @property
    def issuer(self) -> str:
        return self.running.issuer

    def url(self, path: str) -> str:
        return f"{self.issuer}/protocol/openid-connect/{path}"

    async def token(self, **form: str) -> httpx.Response:
        """Post to the token endpoint."""
        return await self.http.post(self.url("token"), data=form)

    async def service_token(self, client: str = "gatehouse-worker", scope: str = "read:users") -> str:
        """Return an access token of a service account; "" requests no scope."""
        asked = {"scope": scope} if scope else {}
        answer = await self.token(
            grant_type="client_credentials", client_id=client, client_secret=SECRETS[client], **asked
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def user_answer(
        self, user: str = "alice", scope: str = "read:users", **more: str
    ) -> httpx.Response:
        """Request the tokens of a user with the password grant."""
        return await self.token(
            grant_type="password",
            client_id="gatehouse-console",
            username=user,
            password=user,
            **({"scope": scope} if scope else {}),
            **more,
        )

    async def user_token(self, user: str = "alice", scope: str = "read:users") -> str:
        """Return an access token of a user."""
        return str((await self.user_answer(user, scope)).json()["access_token"])

    async def introspect(self, token: str, client: str = "gatehouse-api") -> dict[str, object]:
        """Introspect a token as a client."""
        answer = await self.http.post(
            self.url("token/introspect"),
            data={"token": token, "client_id": client, "client_secret": SECRETS[client]},
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    async def admin(self) -> dict[str, str]:
        """Return the headers of an administrator's request."""
        answer = await self.http.post(
            f"{self.running.base_url}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": "admin",
                "password": ADMIN_PASSWORD,
            },
        )
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def rotate(self, provider: str = "ecdsa-generated", priority: int = 200) -> str:
        """Add a signing key, and return the URL of its component."""
        answer = await self.http.post(
            f"{self.running.base_url}/admin/realms/gatehouse/components",
            headers=await self.admin(),
            json={
                "name": "rotated",
                "providerId": provider,
                "providerType": "org.keycloak.keys.KeyProvider",
                "config": {"priority": [str(priority)], "enabled": ["true"], "active": ["true"]},
            },
        )
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]


@functools.cache
def _shared_keys() -> SigningKeys:
    return SigningKeys.create()


def signing_keys() -> SigningKeys:
    """Return keys for an issuer: the same for all, because a new RSA key takes longer than most tests."""
    return _shared_keys().copy()


@pytest.fixture
async def issuer() -> AsyncIterator[LiveIssuer]:
    """A running issuer."""
    clock = Clock()
    realm = load_realm(REALM_FILE, os.environ)
    async with (
        run_issuer(realm, clock=clock, admin_password=ADMIN_PASSWORD, keys=signing_keys()) as running,
        httpx.AsyncClient(verify=tls_context()) as http,
    ):
        yield LiveIssuer(running, realm, clock, http)
