"""The realm file: clients, scopes, mappers, roles and users, with the keys and defaults of Keycloak."""

from __future__ import annotations

import hmac
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import ClientMixin
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from gatehouse.settings import printable, validation_message
from gatehouse_testbed.errors import TestbedError

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::([^}]*))?\}")
_LOOPBACK = {"127.0.0.1", "[::1]"}


class RealmError(TestbedError):
    """The realm file is invalid."""

    exit_code = 2


class _Object(BaseModel):
    """An object of the realm file; keys that the issuer does not use are ignored."""

    model_config = ConfigDict(alias_generator=to_camel)


class Mapper(_Object):
    """A protocol mapper."""

    protocol_mapper: str
    config: Mapping[str, str] = {}


class ClientScope(_Object):
    """A client scope; if it has `roles`, it is granted only to users with one of them."""

    name: str
    attributes: Mapping[str, str] = {}
    protocol_mappers: Sequence[Mapper] = ()
    roles: set[str] = set()

    @property
    def in_token(self) -> bool:
        """Whether its name is in the claim `scope`."""
        return self.attributes.get("include.in.token.scope", "true") != "false"


class Client(_Object, ClientMixin):
    """A client, with the methods that Authlib's grants call."""

    client_id: str
    secret: str = Field("", repr=False)
    client_authenticator_type: str = "client-secret"
    public_client: bool = False
    enabled: bool = True
    standard_flow_enabled: bool = True
    direct_access_grants_enabled: bool = False
    service_accounts_enabled: bool = False
    redirect_uris: Sequence[str] = ()
    default_client_scopes: Sequence[str] = ()
    optional_client_scopes: Sequence[str] = ()
    full_scope_allowed: bool = True
    attributes: Mapping[str, str] = {}
    protocol_mappers: Sequence[Mapper] = ()
    roles: set[str] = set()
    client_roles: dict[str, set[str]] = {}

    @property
    def uses_assertions(self) -> bool:
        """Whether it authenticates with private_key_jwt, by the keys in its attributes."""
        return self.client_authenticator_type == "client-jwt"

    def get_client_id(self) -> str:
        """See ClientMixin."""
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """Return nothing: as in Keycloak, the request has to name it."""
        return

    def get_allowed_scope(self, scope: str | None) -> str:
        """See ClientMixin; unknown scopes were refused before."""
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Return whether a URI is registered; on loopback the port may differ (RFC 8252 section 7.3)."""
        return _is_registered(redirect_uri, self.redirect_uris)

    def check_logout_uri(self, uri: str) -> bool:
        """Return whether a URI is registered for the redirect after a logout; `+` means all redirect URIs."""
        known = self.attributes.get("post.logout.redirect.uris", "").split("##")
        return _is_registered(uri, [*known, *(self.redirect_uris if "+" in known else ())])

    def check_client_secret(self, client_secret: str) -> bool:
        """See ClientMixin."""
        return not self.public_client and hmac.compare_digest(client_secret.encode(), self.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - Authlib's names
        """See ClientMixin."""
        return (method == "none") == self.public_client

    def check_response_type(self, response_type: str) -> bool:
        """See ClientMixin."""
        return response_type == "code" and self.standard_flow_enabled

    def check_grant_type(self, grant_type: str) -> bool:
        """See ClientMixin; codes and refresh tokens are only issued to clients that may use them."""
        flows = {
            "password": self.direct_access_grants_enabled,
            "client_credentials": self.service_accounts_enabled,
            "urn:ietf:params:oauth:grant-type:device_code": (
                self.attributes.get("oauth2.device.authorization.grant.enabled") == "true"
            ),
        }
        return flows.get(grant_type, True)


class Credential(_Object):
    """A password, or another credential, which the issuer ignores."""

    type: str = ""
    value: str = Field("", repr=False)


class User(_Object):
    """A user, or the service account of a client."""

    user_id: str = Field(alias="id")
    username: Annotated[str, StringConstraints(to_lower=True)]
    enabled: bool = False
    credentials: Sequence[Credential] = ()
    email: str = ""
    email_verified: bool = False
    first_name: str = ""
    last_name: str = ""
    realm_roles: set[str] = set()
    client_roles: dict[str, set[str]] = {}
    service_account_client_id: str = ""

    @property
    def password(self) -> str:
        """Its password, "" if it has none."""
        return next((one.value for one in self.credentials if one.type == "password"), "")


class _Composites(_Object):
    realm: frozenset[str] = frozenset()


class _Role(_Object):
    name: str
    composites: _Composites = _Composites()


class _Roles(_Object):
    realm: Sequence[_Role] = ()


class _RoleMapping(_Object):
    client: str = ""
    client_scope: str = ""
    roles: set[str]


def _by(key: str) -> BeforeValidator:
    return BeforeValidator(lambda objects: {one[key]: one for one in objects})


def _by_id(users: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """As in Keycloak, the id of a user becomes `sub`; if the file has none, derive it from the name."""
    ids = (str(u.get("id") or uuid.uuid5(uuid.NAMESPACE_URL, f"gatehouse:{u['username']}")) for u in users)
    return {user_id: {**user, "id": user_id} for user_id, user in zip(ids, users, strict=True)}


class Realm(_Object):
    """A realm; lifetimes in seconds."""

    name: str = Field(alias="realm")
    clients: Annotated[dict[str, Client], _by("clientId")]
    scopes: Annotated[dict[str, ClientScope], _by("name")] = Field({}, alias="clientScopes")
    users: Annotated[dict[str, User], BeforeValidator(_by_id)] = {}
    roles: _Roles = _Roles()
    scope_mappings: Sequence[_RoleMapping] = ()
    client_scope_mappings: Mapping[str, Sequence[_RoleMapping]] = {}
    default_signature_algorithm: str = "RS256"
    access_token_lifespan: int = 300
    access_code_lifespan: int = 60
    revoke_refresh_token: bool = False
    sso_session_idle_timeout: int = 1800
    sso_session_max_lifespan: int = 36000

    @model_validator(mode="after")
    def _link(self) -> Self:
        """Give clients and scopes the roles that are mapped to them."""
        for mapping in self.scope_mappings:
            target = self.scopes.get(mapping.client_scope) or self.clients.get(mapping.client)
            if target is not None:
                target.roles |= mapping.roles
        for owner, mappings in self.client_scope_mappings.items():
            for mapping in mappings:
                self.clients[mapping.client].client_roles[owner] = mapping.roles
        for client in self.clients.values():
            for name in (*client.default_client_scopes, *client.optional_client_scopes):
                if name not in self.scopes:
                    client_id, scope = printable(client.client_id), printable(name)
                    raise RealmError(f"client {client_id}: no client scope {scope}; add it to clientScopes")
        return self

    @cached_property
    def composites(self) -> Mapping[str, frozenset[str]]:
        """Realm roles, and the roles that each contains."""
        return {role.name: role.composites.realm for role in self.roles.realm}

    def user_named(self, username: str) -> User | None:
        """Return the user with a name; names are case-insensitive, as in Keycloak."""
        users = (user for user in self.users.values() if not user.service_account_client_id)
        return next((user for user in users if user.username == username.lower()), None)

    def service_account(self, client_id: str) -> User | None:
        """Return the service account of a client."""
        users = self.users.values()
        return next((user for user in users if user.service_account_client_id == client_id), None)

    def roles_of(self, user: User) -> frozenset[str]:
        """Return the realm roles of a user, with those that they contain."""
        return self.expanded(user.realm_roles)

    def expanded(self, roles: Iterable[str]) -> frozenset[str]:
        """Return realm roles with all roles that they contain."""
        found: set[str] = set()
        waiting = list(roles)
        while waiting:
            role = waiting.pop()
            if role not in found:
                found.add(role)
                waiting += self.composites.get(role, ())
        return frozenset(found)


def _is_registered(uri: str, known: Iterable[str]) -> bool:
    return any(uri == one or _equal_except_port(uri, one) for one in known)


def _equal_except_port(uri: str, known: str) -> bool:
    try:
        asked, kept = urlsplit(uri), urlsplit(known)
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
    """Read a realm file.

    Args:
        path: The file.
        environment: Values of the variables in it, `${NAME:default}`.

    Raises:
        RealmError: The file cannot be read or is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RealmError(
            f"{path}: cannot be read ({error.strerror}); name a realm file with --realm"
        ) from None
    except UnicodeDecodeError as error:
        raise RealmError(f"{path}: not UTF-8 (byte {error.start}); export the realm again") from None

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise RealmError(f"{path}: {match[0]} has no value; set {match[1]} or add a default")
        return json.dumps(found)[1:-1]

    try:
        return Realm.model_validate(json.loads(_VARIABLE.sub(value, text)))
    except ValidationError as error:
        raise RealmError(f"{path}: {validation_message(error)}") from None
    except (ValueError, RecursionError) as error:
        raise RealmError(f"{path}: invalid JSON ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RealmError(f"{path}: not a realm ({type(error).__name__}: {error})") from None


def realm_variables(path: Path) -> frozenset[str]:
    """Return the names of the variables in a realm file that can be read."""
    return frozenset(match[1] for match in _VARIABLE.finditer(path.read_text(encoding="utf-8")))
