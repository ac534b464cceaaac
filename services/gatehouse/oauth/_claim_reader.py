"""Read claims where the settings of an issuer say; a claim of another type counts as missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

from gatehouse.oauth._names import Names
from gatehouse.oauth.errors import InvalidToken
from gatehouse.oauth.principal import Actor, Principal, VerifiedClaims
from gatehouse.settings import ANY_CLIENT, IssuerSettings, parse_claim_path

MAX_ID_CHARS = 255
# A security event or a logout token is never an access token (RFC 8417 section 2.2).
_EVENTS = "events"

Claims = Mapping[str, Any]
Find = Callable[[Claims], Any]


class ClaimReader:
    """Turns the claims of one issuer into principals.

    Args:
        config: The issuer.
    """

    def __init__(self, config: IssuerSettings) -> None:
        layout = config.layout
        self.layout = layout
        self._scopes = [_names_at(path) for path in layout.scope_claims]
        self._prefix = config.scope_prefix
        self._roles = [_names_at(path) for path in layout.role_claims]
        self._groups = [_names_at(path) for path in layout.group_claims]
        self._permissions = [_names_at(path) for path in layout.permission_claims]
        self._client_roles = _client_roles_at(layout.client_role_claims)
        self._clients = [_value_at(parse_claim_path(path).steps) for path in layout.client_id_claims]
        self._tenant = _value_at(parse_claim_path(layout.tenant_claim).steps) if layout.tenant_claim else None
        self.audience: Find = _value_at(parse_claim_path(layout.audience_claim).steps)
        self._marks = [
            [part.partition("=") for part in mark.split(" ")] for mark in layout.access_token_marks
        ]
        paths = (*layout.role_claims, *layout.group_claims, *layout.permission_claims)
        self._role_names = {parse_claim_path(path).steps[0] for path in paths}

    def is_access_token(self, claims: VerifiedClaims) -> bool:
        """Return whether these are claims of an access token, not of an ID or refresh token."""
        return _EVENTS not in claims and any(
            all(_has(claims, name, equals, value) for name, equals, value in mark) for mark in self._marks
        )

    def lists_roles(self, claims: VerifiedClaims) -> bool:
        """Return whether an introspection response lists the current roles, even if there are none."""
        return self.layout.omits_empty_roles or not self._role_names.isdisjoint(claims)

    def tenant(self, claims: Claims) -> str:
        """Return the tenant, or ""."""
        value = None if self._tenant is None else self._tenant(claims)
        return value if isinstance(value, str) and _is_loggable(value) else ""

    def principal(self, issuer: str, claims: VerifiedClaims) -> Principal:
        """Return the principal with the rights in `claims`; ClaimsVerifier adds times and other claims.

        Raises:
            InvalidToken: `sub` is missing, or it, `act` or the client id is malformed.
        """
        return Principal(
            issuer=issuer,
            subject=_subject(claims),
            client_id=self._client_id(claims),
            scopes=self._scopes_of(claims),
            roles=_union(self._roles, claims),
            client_roles=self._client_roles(claims),
            groups=_union(self._groups, claims),
            permissions=_union(self._permissions, claims),
            tenant=self.tenant(claims),
            acr=text(claims, "acr"),
            actor=_actor(claims, issuer),
        )

    def _scopes_of(self, claims: Claims) -> frozenset[str]:
        prefix = self._prefix
        found = (scope for read in self._scopes for scope in read(claims))
        return frozenset(s.removeprefix(prefix) for s in found if s.startswith(prefix)) - {""}

    def _client_id(self, claims: Claims) -> str:
        """Return the client id, or ""; it must be printable (RFC 6749 appendix A.1) and not too long."""
        values = (find(claims) for find in self._clients)
        value = next((value for value in values if isinstance(value, str)), "")
        if not _is_loggable(value):
            raise InvalidToken("client_malformed")
        return value


def text(claims: Claims, name: str) -> str:
    """Return the claim `name` if it is a string, or ""."""
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _subject(claims: Claims) -> str:
    """Return `sub`, which RFC 9068 section 2.2 requires.

    Raises:
        InvalidToken: It is missing, not printable, or longer than OpenID Connect Core section 2 allows.
    """
    value = text(claims, "sub")
    if not value:
        raise InvalidToken("subject_missing")
    if not _is_loggable(value):
        raise InvalidToken("subject_malformed")
    return value


def _actor(claims: Claims, issuer: str) -> Actor | None:
    """Return the current actor; prior ones, nested in it, are informational only (RFC 8693 section 4.1).

    Raises:
        InvalidToken: `act` does not name one; the audit trail would show a call of the subject alone.
    """
    if "act" not in claims:
        return None
    act = claims["act"] if isinstance(claims["act"], Mapping) else {}
    actor = Actor(text(act, "iss") if "iss" in act else issuer, text(act, "sub"))
    if not all(value and _is_loggable(value) for value in (actor.issuer, actor.subject)):
        raise InvalidToken("actor_malformed")
    return actor


def _is_loggable(value: str) -> bool:
    """Return whether a log line can contain `value`, as those of authorized calls do."""
    return len(value) <= MAX_ID_CHARS and value.isprintable()


def _has(claims: Claims, name: str, equals: str, expected: str) -> bool:
    """Return whether a claim is there, and has the expected value; one that begins with `*` is a suffix."""
    if name not in claims or not equals:
        return name in claims
    value = claims[name]
    if value is True or value is False:
        return str(value).lower() == expected
    if not isinstance(value, str):
        return False
    return value.endswith(expected[1:]) if expected.startswith("*") else value == expected


def _value_at(steps: tuple[str, ...]) -> Find:
    """Return a function that finds the claim at the end of `steps`, None if it is missing."""

    def find(claims: Claims) -> Any:
        value: Any = claims
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    return find


def _names_at(path: str) -> Callable[[Claims], Iterable[str]]:
    """Return a function that reads the names at a claim path, none if the claim has another type."""
    steps, kind = parse_claim_path(path)
    find = _value_at(steps)

    def read(claims: Claims) -> Iterable[str]:
        return _names(find(claims), kind)

    return read


def _names(value: Any, kind: str) -> Iterable[str]:
    if kind == "":
        # RFC 6749 section 3.3.
        return value.split(" ") if isinstance(value, str) else ()
    if isinstance(value, list if kind == "[]" else dict):
        return [name for name in value if isinstance(name, str)]
    return ()


def _union(readers: list[Callable[[Claims], Iterable[str]]], claims: Claims) -> Names:
    return Names(name for read in readers for name in read(claims))


def _client_roles_at(path: str) -> Callable[[Claims], Mapping[str, AbstractSet[str]]]:
    """Return a function that reads the roles of each client."""
    if not path:
        return lambda _: MappingProxyType({})
    steps, kind = parse_claim_path(path)
    place = steps.index(ANY_CLIENT)
    find_clients, find_roles = _value_at(steps[:place]), _value_at(steps[place + 1 :])

    def read(claims: Claims) -> Mapping[str, AbstractSet[str]]:
        clients = find_clients(claims)
        if not isinstance(clients, dict):
            return MappingProxyType({})
        return MappingProxyType(
            {client: Names(_names(find_roles(access), kind)) for client, access in clients.items()}
        )

    return read
