"""The claims of an access token: what each says, what defines it, and whether the issuer still says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_JWT, _OIDC, _KEYCLOAK = "RFC 7519 section 4.1", "OpenID Connect Core section", "Keycloak"
# Meaning and source of each claim that issuers commonly use.
_KNOWN: Mapping[str, tuple[str, str]] = {
    "iss": ("the issuer, which services must trust", f"{_JWT}.1"),
    "sub": ("the user, or the client itself; an id that is never used again", f"{_JWT}.2"),
    "aud": ("the services that the token is for; each refuses tokens for others", f"{_JWT}.3"),
    "exp": ("the end of the token", f"{_JWT}.4"),
    "nbf": ("the start of the token", f"{_JWT}.5"),
    "iat": ("when the token was issued", f"{_JWT}.6"),
    "jti": ("the id of this token", f"{_JWT}.7"),
    "scope": ("what the client may do for the user; access rules name scopes", "RFC 8693 section 4.2"),
    "scp": ("what the client may do for the user, as a list", "Okta, Entra ID"),
    "client_id": ("the client that the token was issued to", "RFC 8693 section 4.3"),
    "act": ("the party that acts for the user", "RFC 8693 section 4.1"),
    "cnf": ("the key that the sender must prove to have", "RFC 7800 section 3.1"),
    "azp": ("the client that the token was issued to", f"{_OIDC} 2"),
    "acr": (
        (
            "how well the user was authenticated; access rules can require a class. Keycloak without step-up "
            "says 1 after a login, 0 if it remembered the user"
        ),
        f"{_OIDC} 2",
    ),
    "amr": ("how the user was authenticated, such as by password", f"{_OIDC} 2"),
    "auth_time": ("when the user logged in; access rules can limit its age", f"{_OIDC} 2"),
    "nonce": ("binds an ID token to the login", f"{_OIDC} 2"),
    "sid": ("the session at the issuer", "OpenID Connect Front-Channel Logout section 3"),
    "name": ("full name of the user", f"{_OIDC} 5.1"),
    "given_name": ("given name of the user", f"{_OIDC} 5.1"),
    "family_name": ("family name of the user", f"{_OIDC} 5.1"),
    "preferred_username": ("user name; can change", f"{_OIDC} 5.1"),
    "email": ("email address of the user", f"{_OIDC} 5.1"),
    "email_verified": ("whether the issuer has verified the email address", f"{_OIDC} 5.1"),
    "roles": ("roles of the user", "RFC 9068 section 2.2.3.1"),
    "groups": ("groups of the user", "RFC 9068 section 2.2.3.1"),
    "realm_access": ("roles of the user in the realm; access rules can require one", _KEYCLOAK),
    "resource_access": ("roles of the user at each client", _KEYCLOAK),
    "typ": ("the kind of token; services accept Bearer only", _KEYCLOAK),
    "allowed-origins": ("websites that may use the token in a browser", _KEYCLOAK),
    "active": ("whether the token is valid now", "RFC 7662 section 2.2"),
    "username": ("user name, for display", "RFC 7662 section 2.2"),
    "token_type": ("how the token is sent", "RFC 7662 section 2.2"),
}
_TIMES = frozenset({"exp", "nbf", "iat", "auth_time"})


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        name: Its name.
        value: Its value, "" if the token does not have it.
        meaning: What it says.
        source: What defines it.
        now: What introspection says instead, "" if it says the same or nothing.
    """

    name: str
    value: str
    meaning: str
    source: str
    now: str = ""


def explain_claims(claims: Mapping[str, Any], introspection: Mapping[str, Any] | None) -> Sequence[Claim]:
    """Return the claims of a token and of its introspection.

    Args:
        claims: Those of the token; none if it is opaque.
        introspection: The response of the issuer, None if it was not asked or did not respond.
    """
    now = introspection or {}
    found = []
    for name in dict.fromkeys([*claims, *now]):
        meaning, source = _KNOWN.get(name, ("", "this issuer"))
        value = _text(name, claims[name]) if name in claims else ""
        differs = name in now and (name not in claims or _normal(now[name]) != _normal(claims[name]))
        found.append(Claim(name, value, meaning, source, _text(name, now[name]) if differs else ""))
    return found


def _normal(value: Any) -> Any:
    """Return a value in which the order of names, and one name or a list of it, make no difference."""
    if isinstance(value, str):
        return sorted(value.split())
    return sorted(map(str, value)) if isinstance(value, list) else value


def _text(name: str, value: Any) -> str:
    if name in _TIMES and isinstance(value, int | float):
        try:
            return f"{value:.0f}: {datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        except (ValueError, OverflowError, OSError):
            return str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
