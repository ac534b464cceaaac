"""Reads a realm file as Keycloak's import does: clients, scopes with their gates, mappers, roles, users."""

from __future__ import annotations

import hmac
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import ClientMixin

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::([^}]*))?\}")
_LOOPBACK = {"127.0.0.1", "[::1]"}


class RealmError(Exception):
    """The realm file is invalid; the message names the file and how to fix it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Mapper:
    """A protocol mapper: what it is, and its configuration."""

    kind: str
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClientScope:
    """A client scope; `roles` is its gate: where given, a user needs one of them."""

    name: str
    in_token: bool
    mappers: tuple[Mapper, ...]
    roles: frozenset[str]


@dataclass(slots=True)
class Client(ClientMixin):
    """A client, in the words of Authlib's model."""

    client_id: str
    secret: str
    public: bool
    enabled: bool
    grants: frozenset[str]
    redirect_uris: tuple[str, ...]
    default_scopes: tuple[str, ...]
    optional_scopes: tuple[str, ...]
    full_scope: bool
    attributes: Mapping[str, str]
    mappers: tuple[Mapper, ...]
    roles: frozenset[str] = frozenset()
    client_roles: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def get_client_id(self) -> str:
        """See ClientMixin."""
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """Keycloak has none: the request names it."""
        return

    def get_allowed_scope(self, scope: str | None) -> str:
        """See ClientMixin; unknown scopes have been refused before."""
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether it is registered; one on loopback may have any port (RFC 8252 section 7.3)."""
        return _registered(redirect_uri, self.redirect_uris)

    def check_logout_uri(self, uri: str) -> bool:
        """Whether a browser may go there after a logout; `+` stands for the redirect URIs."""
        known = self.attributes.get("post.logout.redirect.uris", "").split("##")
        return _registered(uri, [*known, *(self.redirect_uris if "+" in known else ())])

    def check_client_secret(self, client_secret: str) -> bool:
        """See ClientMixin."""
        return not self.public and hmac.compare_digest(client_secret.encode(), self.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - Authlib's names
        """See ClientMixin."""
        return (method == "none") == self.public

    def check_response_type(self, response_type: str) -> bool:
        """See ClientMixin."""
        return response_type == "code" and "authorization_code" in self.grants

    def check_grant_type(self, grant_type: str) -> bool:
        """See ClientMixin; a code or a refresh token is its own proof that its client may have it."""
        return grant_type in self.grants or grant_type in {"authorization_code", "refresh_token"}


@dataclass(slots=True)
class User:
    """A user, or the service account of a client."""

    user_id: str
    username: str
    enabled: bool
    password: str
    email: str
    email_verified: bool
    first_name: str
    last_name: str
    realm_roles: set[str]
    client_roles: dict[str, set[str]]
    service_account_of: str = ""


@dataclass(slots=True)
class Realm:
    """A realm; lifetimes in seconds."""

    name: str
    clients: dict[str, Client]
    scopes: dict[str, ClientScope]
    users: dict[str, User]
    composites: dict[str, frozenset[str]]
    algorithm: str
    access_token_seconds: int
    code_seconds: int
    rotates_refresh_tokens: bool
    session_idle_seconds: int
    session_max_seconds: int

    def user_named(self, username: str) -> User | None:
        """Returns the user of that name (Keycloak's names have no case)."""
        wanted = username.lower()
        return next(
            (u for u in self.users.values() if u.username == wanted and not u.service_account_of), None
        )

    def service_account(self, client_id: str) -> User | None:
        """Returns the service account of a client."""
        return next((u for u in self.users.values() if u.service_account_of == client_id), None)

    def roles_of(self, user: User) -> frozenset[str]:
        """Returns the realm roles of a user, composites expanded."""
        return self.expanded(user.realm_roles)

    def expanded(self, roles: Iterable[str]) -> frozenset[str]:
        """Returns realm roles with all that they are composed of."""
        found: set[str] = set()
        waiting = list(roles)
        while waiting:
            role = waiting.pop()
            if role not in found:
                found.add(role)
                waiting += self.composites.get(role, ())
        return frozenset(found)


def _registered(uri: str, known: Iterable[str]) -> bool:
    return any(uri == one or _same_but_port(uri, one) for one in known)


def _same_but_port(uri: str, known: str) -> bool:
    asked, kept = urlsplit(uri), urlsplit(known)
    try:
        return (
            kept.port is None
            and asked.port is not None
            and kept.netloc in _LOOPBACK
            and asked.netloc.rpartition(":")[0] == kept.netloc
            and (asked.scheme, asked.path, asked.query, asked.fragment)
            == (kept.scheme, kept.path, kept.query, kept.fragment)
        )
    except ValueError:
        return False


def load_realm(path: Path, environment: Mapping[str, str]) -> Realm:
    """Reads a realm file.

    Args:
        path: The file.
        environment: Values for `${NAME:default}`.

    Raises:
        RealmError: The file cannot be read, is no JSON, or lacks what a realm needs.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RealmError(
            f"{path}: cannot be read ({error.strerror}); name a realm file with --realm"
        ) from None

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise RealmError(f"{path}: {match[0]} has no value; set {match[1]} or give it a default")
        return json.dumps(found)[1:-1]

    try:
        return _realm(json.loads(_VARIABLE.sub(value, text)))
    except ValueError as error:
        raise RealmError(f"{path}: is not JSON ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RealmError(f"{path}: is not a realm as Keycloak imports it (at {error})") from None


def _mappers(raw: Iterable[Mapping[str, Any]]) -> tuple[Mapper, ...]:
    return tuple(Mapper(m["protocolMapper"], m.get("config", {})) for m in raw)


def _realm(raw: Mapping[str, Any]) -> Realm:
    gates: dict[str, set[str]] = {}
    allowed: dict[str, set[str]] = {}
    for mapping in raw.get("scopeMappings", ()):
        if "clientScope" in mapping:
            gates.setdefault(mapping["clientScope"], set()).update(mapping["roles"])
        else:
            allowed.setdefault(mapping["client"], set()).update(mapping["roles"])
    client_allowed: dict[str, dict[str, frozenset[str]]] = {}
    for owner, mappings in raw.get("clientScopeMappings", {}).items():
        for mapping in mappings:
            client_allowed.setdefault(mapping["client"], {})[owner] = frozenset(mapping["roles"])
    scopes = {
        s["name"]: ClientScope(
            name=s["name"],
            in_token=s.get("attributes", {}).get("include.in.token.scope", "true") != "false",
            mappers=_mappers(s.get("protocolMappers", ())),
            roles=frozenset(gates.get(s["name"], ())),
        )
        for s in raw.get("clientScopes", ())
    }
    clients = {
        c["clientId"]: _client(
            c, frozenset(allowed.get(c["clientId"], ())), client_allowed.get(c["clientId"], {})
        )
        for c in raw["clients"]
    }
    for client in clients.values():
        for name in (*client.default_scopes, *client.optional_scopes):
            if name not in scopes:
                raise RealmError(
                    f"client {client.client_id}: there is no client scope {name}; add it to clientScopes"
                )
    users = {user.user_id: user for user in map(_user, raw.get("users", ()))}
    return Realm(
        name=raw["realm"],
        clients=clients,
        scopes=scopes,
        users=users,
        composites={
            r["name"]: frozenset(r.get("composites", {}).get("realm", ()))
            for r in raw.get("roles", {}).get("realm", ())
        },
        algorithm=raw.get("defaultSignatureAlgorithm", "RS256"),
        access_token_seconds=int(raw.get("accessTokenLifespan", 300)),
        code_seconds=int(raw.get("accessCodeLifespan", 60)),
        rotates_refresh_tokens=raw.get("revokeRefreshToken", False),
        session_idle_seconds=int(raw.get("ssoSessionIdleTimeout", 1800)),
        session_max_seconds=int(raw.get("ssoSessionMaxLifespan", 36000)),
    )


def _client(
    raw: Mapping[str, Any], roles: frozenset[str], client_roles: Mapping[str, frozenset[str]]
) -> Client:
    grants = {
        "authorization_code": raw.get("standardFlowEnabled", True),
        "password": raw.get("directAccessGrantsEnabled", False),
        "client_credentials": raw.get("serviceAccountsEnabled", False),
    }
    return Client(
        client_id=raw["clientId"],
        secret=raw.get("secret", ""),
        public=raw.get("publicClient", False),
        enabled=raw.get("enabled", True),
        grants=frozenset(name for name, on in grants.items() if on),
        redirect_uris=tuple(raw.get("redirectUris", ())),
        default_scopes=tuple(raw.get("defaultClientScopes", ())),
        optional_scopes=tuple(raw.get("optionalClientScopes", ())),
        full_scope=raw.get("fullScopeAllowed", True),
        attributes=raw.get("attributes", {}),
        mappers=_mappers(raw.get("protocolMappers", ())),
        roles=roles,
        client_roles=client_roles,
    )


def _user(raw: Mapping[str, Any]) -> User:
    passwords = [c["value"] for c in raw.get("credentials", ()) if c.get("type") == "password"]
    # As in Keycloak, an id in the file becomes `sub`; else one is made, the same for the same name.
    made = str(uuid.uuid5(uuid.NAMESPACE_URL, "gatehouse:" + raw["username"]))
    return User(
        user_id=raw.get("id", made),
        username=raw["username"].lower(),
        enabled=raw.get("enabled", False),
        password=passwords[0] if passwords else "",
        email=raw.get("email", ""),
        email_verified=raw.get("emailVerified", False),
        first_name=raw.get("firstName", ""),
        last_name=raw.get("lastName", ""),
        realm_roles=set(raw.get("realmRoles", ())),
        client_roles={c: set(roles) for c, roles in raw.get("clientRoles", {}).items()},
        service_account_of=raw.get("serviceAccountClientId", ""),
    )
