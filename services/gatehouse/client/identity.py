"""The user of a stored login, from its access token, which is not verified here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatehouse.client.issuer import decode
from gatehouse.client.login_store import Login
from gatehouse.client.stored_logins import StoredLogin
from gatehouse.oauth import InvalidToken, Principal
from gatehouse.oauth._claim_reader import ClaimReader
from gatehouse.settings import PRESETS, ConfigurationError, IssuerSettings


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a login is.

    Attributes:
        issuer: The issuer.
        client: Client that the tokens were issued to.
        user: User name; "" for a client.
        subject: `sub` of the access token; "" if it is opaque.
        scopes: Scopes of the access token.
        roles: Roles of the access token, where any of the known providers puts them.
        expires_in: Seconds until the access token ends.
        renewable: Whether there is a next access token without another login.
        stored_in: `keyring` or `file`.
    """

    issuer: str
    client: str
    user: str
    subject: str
    scopes: list[str]
    roles: list[str]
    expires_in: int
    renewable: bool
    stored_in: str


def identify(stored: StoredLogin, login: Login, clock: Callable[[], float]) -> Identity:
    """Return who a login is."""
    principal = _principal(login.access_token)
    scopes = principal.scopes if principal is not None and principal.scopes else login.scope.split()
    return Identity(
        issuer=stored.registration.issuer,
        client=stored.registration.client_id,
        user=stored.user,
        subject="" if principal is None else principal.subject,
        scopes=sorted(scopes),
        roles=[] if principal is None else sorted(principal.roles),
        expires_in=max(0, round(login.expires_at - clock())),
        renewable=stored.flow == "client_credentials" or bool(login.refresh_token),
        stored_in=stored.place,
    )


def _principal(token: str) -> Principal | None:
    """Return the principal of an access token, None if it is opaque."""
    layouts = PRESETS.values()
    reader = ClaimReader(
        IssuerSettings(
            issuer="https://any.invalid",
            audience=("any",),
            mode="jwt",
            provider="generic",
            scope_claims=_union(layout.scope_claims for layout in layouts),
            role_claims=_union(layout.role_claims for layout in layouts),
        )
    )
    try:
        return reader.principal("", decode(token)["claims"])
    except (ConfigurationError, InvalidToken):
        return None


def _union(paths: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for some in paths for path in some))
