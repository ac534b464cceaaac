"""Callers of the tour: their tokens, and what each token allows."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from gatehouse.client.issuer import IssuerClient, decode, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer import Realm, run_issuer

USERS = ("bob", "alice", "carol")
CLIENTS = ("gatehouse-worker", "gatehouse-admin-service")
SHORT_LIVED, OTHER_AUDIENCE = "gatehouse-brief", "gatehouse-elsewhere"
EXPIRY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of the services.

    Attributes:
        name: Its name in the output.
        token: Its access token, None to send none.
        valid: Whether a service must accept the token.
        claims: Claims of the token.
        expected_scopes: Scopes that the realm file grants to it.
    """

    name: str
    token: str | None = field(default=None, repr=False)
    valid: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    expected_scopes: frozenset[str] = frozenset()

    @property
    def scopes(self) -> frozenset[str]:
        """Scopes of its token (RFC 8693 section 4.2)."""
        return frozenset(str(self.claims.get("scope", "")).split())

    @property
    def roles(self) -> frozenset[str]:
        """Realm roles of its token, in Keycloak's claim."""
        return frozenset(self.claims.get("realm_access", {}).get("roles", ()))


def realm_scopes(realm: Realm, client_id: str, username: str | None) -> frozenset[str]:
    """Return the scopes that the realm file grants to a user of a client, or to the client itself.

    A scope is granted if the client may request it and, if the scope has role mappings, the user has one of
    these roles.

    Raises:
        TestbedError: The realm has no such user or client.
    """
    client = realm.clients.get(client_id)
    user = realm.user_named(username) if username is not None else realm.service_account(client_id)
    if client is None or user is None:
        raise TestbedError(f"{username or client_id}: missing in the realm file; the tour needs it")
    roles = realm.roles_of(user)
    scopes = [realm.scopes[name] for name in (*client.default_client_scopes, *client.optional_client_scopes)]
    return frozenset(s.name for s in scopes if s.in_token and (not s.roles or s.roles & roles))


class TourTokens:
    """Gets tokens for the callers of the tour.

    Args:
        issuer: Client of the issuer.
        profile: Passwords and client secrets.
        realm: Says which scopes to request, and which to expect.
    """

    def __init__(self, issuer: IssuerClient, profile: Profile, realm: Realm) -> None:
        self.issuer = issuer
        self._profile = profile
        self._realm = realm

    async def of_user(self, username: str) -> str:
        """Return an access token of a user with all scopes of the console."""
        password = self._profile.passwords.get(username)
        if password is None:
            raise TestbedError(f"{username}: no password in the profile; add it under `passwords`")
        scope = self._all_scopes(self._profile.console_client)
        return (await self.issuer.user_token(username, password.get_secret_value(), scope)).access_token

    async def of_client(self, client_id: str) -> str:
        """Return an access token of a client with all its scopes."""
        return (await self.issuer.client_token(client_id, self._all_scopes(client_id))).access_token

    def _all_scopes(self, client_id: str) -> str:
        client = self._realm.clients.get(client_id)
        return " ".join(client.optional_client_scopes) if client is not None else ""

    async def user(self, username: str) -> Caller:
        """Return a user as a caller."""
        expected = realm_scopes(self._realm, self._profile.console_client, username)
        return _caller(username, await self.of_user(username), expected)

    async def client(self, client_id: str) -> Caller:
        """Return a client as a caller."""
        expected = realm_scopes(self._realm, client_id, None)
        return _caller(client_id.removeprefix("gatehouse-"), await self.of_client(client_id), expected)

    async def wait_until_inactive(self, token: str, seconds: float) -> None:
        """Wait until the issuer reports a token as inactive.

        Raises:
            TestbedError: It is still active after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (await self.issuer.introspect(token)).get("active") is not False:
            if time.monotonic() > deadline:
                raise TestbedError(f"an expired token is still active after {seconds:g} s")
            await asyncio.sleep(0.05)


def _caller(name: str, token: str, expected_scopes: frozenset[str]) -> Caller:
    return Caller(name, token, valid=True, claims=decode(token)["claims"], expected_scopes=expected_scopes)


async def wrong_issuer_token(stack: AsyncExitStack, realm: Realm) -> str:
    """Return a token of alice from another issuer with the same realm, which no service trusts."""
    running = await stack.enter_async_context(run_issuer(realm))
    user = realm.user_named("alice")
    if user is None:
        raise TestbedError("alice: missing in the realm file; the tour needs her")
    profile = Profile(issuer=running.issuer)
    scope = " ".join(realm.clients[profile.console_client].optional_client_scopes)
    async with open_issuer_client(profile) as issuer:
        return (await issuer.user_token(user.username, user.password, scope)).access_token


def tampered(token: str, scopes: Sequence[str]) -> str:
    """Return a token with other scopes and the old signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    changed = json.dumps(claims | {"scope": " ".join(scopes)}).encode()
    return ".".join((header, base64.urlsafe_b64encode(changed).rstrip(b"=").decode(), signature))
