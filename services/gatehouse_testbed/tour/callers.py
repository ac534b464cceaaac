"""Who calls in the tour: with which token, what it should be worth, and what it may."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from gatehouse.client.issuer import IssuerClient, decode, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.issuer import Realm, run_issuer

USERS = ("bob", "alice", "carol")
CLIENTS = ("gatehouse-worker", "gatehouse-admin-service")
BRIEF, ELSEWHERE = "gatehouse-brief", "gatehouse-elsewhere"
EXPIRY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Caller:
    """One who calls.

    Attributes:
        name: How the tour names it.
        token: What it shows; None for nothing.
        good: Whether a service must accept the token.
        claims: What stands in the token, and so what it may.
        excess: Scopes of the token that the realm file does not promise.
        lack: Scopes that the realm file promises and the token has not.
    """

    name: str
    token: str | None = field(default=None, repr=False)
    good: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    excess: frozenset[str] = frozenset()
    lack: frozenset[str] = frozenset()

    @property
    def scopes(self) -> frozenset[str]:
        """Scopes of its token (RFC 8693 section 4.2)."""
        return frozenset(str(self.claims.get("scope", "")).split())

    @property
    def roles(self) -> frozenset[str]:
        """Realm roles of its token, where Keycloak puts them."""
        return frozenset(self.claims.get("realm_access", {}).get("roles", ()))


def promised_scopes(realm: Realm, client_id: str, username: str | None) -> frozenset[str]:
    """Returns what the realm file promises to a user of a client, or to the client itself.

    A scope is had where the client may ask for it and, where it has a gate, the user holds a role of it.

    Raises:
        DemoError: The realm has no such user or client.
    """
    client = realm.clients.get(client_id)
    user = realm.user_named(username) if username is not None else realm.service_account(client_id)
    if client is None or user is None:
        raise DemoError(f"{username or client_id}: is not in the realm file, and the tour needs it there")
    roles = realm.roles_of(user)
    names = (*client.default_scopes, *client.optional_scopes)
    scopes = [realm.scopes[name] for name in names]
    return frozenset(s.name for s in scopes if s.in_token and (not s.roles or s.roles & roles))


class Desk:
    """Gets the tokens of the tour's callers.

    Args:
        tokens: The issuer's desk.
        profile: Passwords and secrets.
        realm: What is promised.
    """

    def __init__(self, tokens: IssuerClient, profile: Profile, realm: Realm) -> None:
        self.tokens = tokens
        self._profile = profile
        self._realm = realm

    async def of_user(self, username: str) -> str:
        """Returns a token of a user with all that the console may ask for."""
        word = self._profile.passwords.get(username)
        if word is None:
            raise DemoError(
                f"{username}: has no password in the profile; the tour needs it under `passwords`"
            )
        scope = self._everything(self._profile.console_client)
        return (await self.tokens.user_token(username, word.get_secret_value(), scope)).access_token

    async def of_client(self, client_id: str) -> str:
        """Returns a token of a client with all that it may ask for."""
        return (await self.tokens.client_token(client_id, self._everything(client_id))).access_token

    def _everything(self, client_id: str) -> str:
        client = self._realm.clients.get(client_id)
        return " ".join(client.optional_scopes) if client is not None else ""

    async def user(self, username: str) -> Caller:
        """Returns a user as a caller."""
        promised = promised_scopes(self._realm, self._profile.console_client, username)
        return self._caller(username, await self.of_user(username), promised)

    async def client(self, client_id: str) -> Caller:
        """Returns a client as a caller."""
        promised = promised_scopes(self._realm, client_id, None)
        return self._caller(client_id.removeprefix("gatehouse-"), await self.of_client(client_id), promised)

    @staticmethod
    def _caller(name: str, token: str, promised: frozenset[str]) -> Caller:
        caller = Caller(name, token, good=True, claims=decode(token)["claims"])
        return replace(caller, excess=caller.scopes - promised, lack=promised - caller.scopes)

    async def until_inactive(self, token: str, seconds: float) -> float:
        """Waits until the issuer calls a token inactive, and returns how long that took.

        Raises:
            DemoError: It still is active after `seconds`.
        """
        began = time.monotonic()
        while (await self.tokens.introspect(token)).get("active") is not False:
            if time.monotonic() - began > seconds:
                raise DemoError(f"a token that should have ended is still active after {seconds:g} s")
            await asyncio.sleep(0.05)
        return time.monotonic() - began


async def wrong_issuer_token(stack: AsyncExitStack, realm: Realm) -> str:
    """Returns a token of alice from an issuer of the tour's own, which no service knows."""
    running = await stack.enter_async_context(run_issuer(realm))
    user = realm.user_named("alice")
    if user is None:
        raise DemoError("alice: is not in the realm file, and the tour needs her there")
    console = Profile(issuer=running.issuer)
    scope = " ".join(realm.clients[console.console_client].optional_scopes)
    async with open_issuer_client(console) as client:
        return (await client.user_token(user.username, user.password, scope)).access_token


def tampered(token: str, scopes: Sequence[str]) -> str:
    """Returns a token into which other scopes were written, under the old signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    written = json.dumps(claims | {"scope": " ".join(scopes)}).encode()
    return ".".join((header, base64.urlsafe_b64encode(written).rstrip(b"=").decode(), signature))
