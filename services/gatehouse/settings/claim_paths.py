"""Where claims are in the tokens of an issuer: settings of the issuer, with a preset for each provider.

A claim path is the name of a claim, such as `scope` or `https://example.com/roles`, or a JSON Pointer
(RFC 6901) to a claim in another one, such as `/realm_access/roles`. Its end says which type the claim must
have: `[]` a list of strings, `{}` an object whose member names are used, and nothing a string of words
separated by spaces. A claim of another type counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from gatehouse.settings._section import Section
from gatehouse.settings._values import VerifyMode, as_tuple

ProviderName = Literal[
    "keycloak", "auth0", "okta", "entra", "cognito", "google", "zitadel", "authentik", "generic"
]
TENANT = "{tenantid}"
"""Placeholder for the tenant in an issuer URL, as Microsoft Entra writes it in its metadata."""
ANY_CLIENT = "*"
_POINTER = re.compile(r"(?:/(?:[^/~]|~[01])+)+")


class ClaimPath(NamedTuple):
    """A parsed claim path.

    Attributes:
        steps: Names of the claims, from the outermost.
        kind: `[]`, `{}` or "".
    """

    steps: tuple[str, ...]
    kind: str


def parse_claim_path(text: str) -> ClaimPath:
    """Parse a claim path.

    Raises:
        ValueError: It is malformed.
    """
    kind = text[-2:] if text.endswith(("[]", "{}")) else ""
    path = text.removesuffix(kind)
    if not path or not path.isprintable() or " " in path:
        raise ValueError(
            "must be the name of a claim, such as groups[], or a path such as /realm_access/roles[]"
        )
    if not path.startswith("/"):
        return ClaimPath((path,), kind)
    if _POINTER.fullmatch(path) is None:
        raise ValueError("must be a JSON Pointer such as /realm_access/roles[]; write ~1 for / in a name")
    return ClaimPath(tuple(step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")), kind)


def _check_path(text: str) -> str:
    if ANY_CLIENT in parse_claim_path(text).steps:
        raise ValueError("may have * in client_role_claims only")
    return text


def _check_text_path(text: str) -> str:
    if parse_claim_path(_check_path(text)).kind:
        raise ValueError("must not end in [] or {}: this claim is a string")
    return text


def _check_client_roles(text: str) -> str:
    path = parse_claim_path(text)
    if path.steps.count(ANY_CLIENT) != 1 or path.kind != "[]":
        raise ValueError("must have * for the client and end in [], such as /resource_access/*/roles[]")
    return text


def _check_mark(text: str) -> str:
    parts = text.split(" ")
    if not all(part.partition("=")[0] for part in parts) or not text.isprintable():
        raise ValueError("must be names of claims, or name=value, separated by single spaces")
    return text


Path = Annotated[str, AfterValidator(_check_path)]
TextPath = Annotated[str, AfterValidator(_check_text_path)]
ClientRolesPath = Annotated[str, AfterValidator(_check_client_roles)]
Mark = Annotated[str, AfterValidator(_check_mark)]


class ClaimSettings(Section):
    """Where the claims are in the tokens of an issuer. What is unset is that of the provider's preset."""

    provider: ProviderName = "keycloak"
    """Preset for the claim settings below."""
    scope_claims: Annotated[tuple[Path, ...], BeforeValidator(as_tuple)] | None = None
    """Claim paths of the scopes; this and the following claim settings come from the preset if unset."""
    scope_prefix: str = ""
    """Prefix to remove from scopes, such as Cognito adds; scopes without it are dropped."""
    role_claims: Annotated[tuple[Path, ...], BeforeValidator(as_tuple)] | None = None
    """Claim paths of the roles."""
    group_claims: Annotated[tuple[Path, ...], BeforeValidator(as_tuple)] | None = None
    """Claim paths of the groups."""
    permission_claims: Annotated[tuple[Path, ...], BeforeValidator(as_tuple)] | None = None
    """Claim paths of the permissions."""
    client_role_claims: ClientRolesPath | None = None
    """Claim path of the roles of each client, with `*` for the client id."""
    client_id_claims: Annotated[tuple[TextPath, ...], BeforeValidator(as_tuple)] | None = None
    """Claim paths of the client id; the first one in the token is used."""
    tenant_claim: TextPath | None = None
    """Claim path of the tenant."""
    audience_claim: TextPath | None = None
    """Claim path of the audience."""
    access_token_marks: Annotated[tuple[Mark, ...], BeforeValidator(as_tuple)] | None = None
    """How access tokens differ from ID tokens: a list of conditions, each of them claims or `claim=value`,
    separated by spaces. A token must meet one condition, or have `typ` `at+jwt` in its header (RFC 9068)."""
    tenants: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(as_tuple)] = ()
    """Accepted tenants; `*` accepts all. Required if `issuer` contains `{tenantid}`."""
    accept_id_tokens: bool = False
    """Accept ID tokens of service accounts, the only tokens that `google` issues for services."""

    @property
    def layout(self) -> ClaimLayout:
        """The preset of the provider with these settings."""
        names = {field.name for field in fields(ClaimLayout)} & set(type(self).model_fields)
        given = {name: getattr(self, name) for name in names}
        return replace(PRESETS[self.provider], **{name: v for name, v in given.items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLayout:
    """Where claims are, and what else differs between providers.

    See ClaimSettings for the attributes with the name of a setting.

    Attributes:
        modes: Modes that can be used with this provider, the recommended one first.
        only_id_tokens: Whether its tokens for services are ID tokens.
        introspects_session: Whether introspection returns `acr` and `auth_time` of the current session, not
            of the token.
        omits_empty_roles: Whether a response without roles means that there are none, not that they are
            unknown.
    """

    scope_claims: tuple[str, ...] = ("scope",)
    role_claims: tuple[str, ...] = ()
    group_claims: tuple[str, ...] = ()
    permission_claims: tuple[str, ...] = ()
    client_role_claims: str = ""
    client_id_claims: tuple[str, ...] = ("client_id", "azp")
    tenant_claim: str = ""
    audience_claim: str = "aud"
    access_token_marks: tuple[str, ...] = ()
    modes: tuple[VerifyMode, ...] = ("hybrid", "jwt", "introspection")
    only_id_tokens: bool = False
    introspects_session: bool = False
    omits_empty_roles: bool = False


PRESETS: Mapping[ProviderName, ClaimLayout] = {
    "keycloak": ClaimLayout(
        role_claims=("/realm_access/roles[]",),
        client_role_claims="/resource_access/*/roles[]",
        client_id_claims=("azp", "client_id"),
        access_token_marks=("typ=Bearer",),
        introspects_session=True,
        omits_empty_roles=True,
    ),
    # With RBAC the permissions are what the user was granted, so they count as scopes.
    "auth0": ClaimLayout(
        scope_claims=("scope", "permissions[]"),
        permission_claims=("permissions[]",),
        client_id_claims=("azp", "client_id"),
        tenant_claim="org_id",
        access_token_marks=("scope", "permissions", "gty"),
        modes=("jwt",),
    ),
    # Signed tokens have `scp` and `cid`; introspection returns `scope` and `client_id`.
    "okta": ClaimLayout(
        scope_claims=("scp[]", "scope"),
        role_claims=("groups[]",),
        group_claims=("groups[]",),
        client_id_claims=("cid", "client_id"),
        access_token_marks=("cid", "client_id token_type=Bearer"),
    ),
    # `azp` and `azpacr` are of tokens of version 2.0, `appid` and `appidacr` of version 1.0.
    "entra": ClaimLayout(
        scope_claims=("scp",),
        role_claims=("roles[]",),
        group_claims=("groups[]",),
        client_id_claims=("azp", "appid"),
        tenant_claim="tid",
        access_token_marks=("azpacr", "appidacr"),
        modes=("jwt",),
    ),
    "cognito": ClaimLayout(
        role_claims=("cognito:groups[]",),
        group_claims=("cognito:groups[]",),
        client_id_claims=("client_id",),
        audience_claim="client_id",
        access_token_marks=("token_use=access",),
        modes=("jwt",),
    ),
    "google": ClaimLayout(
        scope_claims=(),
        client_id_claims=("azp",),
        access_token_marks=("email=*.gserviceaccount.com email_verified=true",),
        modes=("jwt",),
        only_id_tokens=True,
    ),
    # Only access tokens and introspection have `jti`.
    "zitadel": ClaimLayout(
        role_claims=("urn:zitadel:iam:org:project:roles{}",),
        tenant_claim="urn:zitadel:iam:user:resourceowner:id",
        access_token_marks=("jti",),
    ),
    # Introspection does not distinguish access tokens from refresh tokens, so the signature is needed, too.
    "authentik": ClaimLayout(
        role_claims=("groups[]",),
        group_claims=("groups[]",),
        client_id_claims=("azp", "client_id"),
        access_token_marks=("azp uid", "client_id scope"),
        modes=("hybrid", "jwt"),
    ),
    # RFC 9068 section 2.2.3; a signed token needs the header `typ` `at+jwt`.
    "generic": ClaimLayout(
        role_claims=("roles[]",),
        group_claims=("groups[]",),
        permission_claims=("entitlements[]",),
        access_token_marks=("client_id token_type=Bearer", "client_id token_type=bearer"),
    ),
}
