"""A refused token, what is known about it, and why it is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from gatehouse.oauth import PresentedToken
from gatehouse.settings import IssuerSettings, ProviderName, parse_claim_path, printable

MAX_SHOWN = 200
_NO_CHANGES: Mapping[str, Any] = MappingProxyType({})
# Claims of ID tokens. The access tokens of authentik have them too.
_ID_TOKEN_CLAIMS = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
# The marks of these presets are claims that other ID tokens may have.
_LENIENT = frozenset({"auth0", "zitadel"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a refused token. Nothing in it is verified.

    Attributes:
        token: The token.
        claims: Its claims, or those of its introspection response.
        config: The settings that refuse it.
        now: Time of the check, in seconds since the epoch.
        providers: Other providers whose preset accepts it.
        jwks_uri: URL of the keys of the issuer, or "".
    """

    token: PresentedToken
    claims: Mapping[str, Any]
    config: IssuerSettings
    now: float
    providers: Sequence[ProviderName] = ()
    jwks_uri: str = ""

    @property
    def header(self) -> Mapping[str, Any]:
        """Its JOSE header, empty if it is opaque."""
        return self.token.jws.header if self.token.jws is not None else {}

    def with_providers(self, providers: Sequence[ProviderName]) -> Evidence:
        """Return the same with other providers whose preset accepts the token."""
        return replace(self, providers=providers)

    def claim(self, path: str) -> Any:
        """Return the claim at a claim path, None if it is missing."""
        return claim_at(self.claims, path)

    @property
    def is_id_token(self) -> bool:
        """Whether it has marks of an ID token."""
        claims = self.claims
        if claims.get("typ") == "ID" or claims.get("token_use") == "id":
            return True
        return not _ID_TOKEN_CLAIMS.isdisjoint(claims) and _LENIENT.issuperset(self.providers)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a token is refused.

    Attributes:
        detail: What is wrong, and how to fix it.
        changes: Settings with which the check can continue, to find further problems.
        now: Time with which the check can continue.
    """

    detail: str
    changes: Mapping[str, Any] = field(default_factory=lambda: _NO_CHANGES)
    now: float | None = None


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim at a claim path, None if it is missing or there is no path."""
    value: Any = claims if path else None
    for step in parse_claim_path(path).steps if path else ():
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def shown(value: object) -> str:
    """Return a value as text of bounded length that cannot control a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return printable(text)


def duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def time_text(seconds: float) -> str:
    """Return a time in ISO 8601, or as a number if it is outside of the calendar."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
