"""What a verified token was read as, and claims with rights that the settings of its issuer do not read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gatehouse.oauth import PresentedToken, Principal
from gatehouse.runtime.doctor.evidence import claim_at, shown, time_text
from gatehouse.runtime.doctor.result import Result, Status
from gatehouse.settings import IssuerSettings

# Where providers put scopes; a claim with roles can have any name.
_SCOPE_CLAIMS = ("scope", "scp", "scopes", "permissions")
_ROLE_NAME = re.compile(r"roles?$|groups?$", re.IGNORECASE)
_ROLE_DEPTH = 3
_CLIENT_CLAIMS = ("azp", "client_id", "cid", "appid")


def describe_caller(
    caller: Principal, config: IssuerSettings, token: PresentedToken, claims: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return what a token was read as: JSON values, by name."""
    audience = claim_at(claims, config.layout.audience_claim) or []
    return {
        "issuer": caller.issuer,
        "subject": caller.subject,
        "subject_kind": "client" if _is_client(caller, claims) else "user",
        "actor_issuer": "" if caller.actor is None else caller.actor.issuer,
        "actor_subject": "" if caller.actor is None else caller.actor.subject,
        "client_id": caller.client_id,
        "tenant": caller.tenant,
        "audience": audience if isinstance(audience, list) else [audience],
        "scopes": sorted(caller.scopes),
        "roles": sorted(caller.roles),
        "client_roles": {name: sorted(roles) for name, roles in caller.client_roles.items()},
        "groups": sorted(caller.groups),
        "permissions": sorted(caller.permissions),
        "acr": caller.acr,
        "logged_in_at": None if caller.auth_time is None else time_text(caller.auth_time),
        "expires_at": time_text(caller.expires_at - config.leeway_seconds),
        "verified_by": _method(config, token),
    }


def _method(config: IssuerSettings, token: PresentedToken) -> str:
    if config.mode == "introspection" or token.jws is None:
        return "introspection"
    header = token.jws.header
    signature = f"signature ({header.get('alg')}, key {shown(header.get('kid', 'without a name'))})"
    return f"{signature}, then introspection" if config.mode == "hybrid" else signature


def _is_client(caller: Principal, claims: Mapping[str, Any]) -> bool:
    """Return whether a token is of a client itself (RFC 6749 section 4.4), by what its provider documents."""
    marks = (
        caller.subject == caller.client_id,  # RFC 9068 section 2.2, Okta, Cognito, Google
        caller.subject == f"{caller.client_id}@clients",  # Auth0
        claims.get("idtyp") == "app",  # Entra, if it is configured as an optional claim
        "appidacr" in claims and "scp" not in claims,
        "azpacr" in claims and "scp" not in claims,
        str(claims.get("preferred_username", "")).startswith("service-account-"),  # Keycloak
    )
    return any(marks)


def check_rights(
    caller: Principal, config: IssuerSettings, claims: Mapping[str, Any], required: Collection[str]
) -> Iterator[Result]:
    """Yield a warning for each kind of rights that was not found but may be in another claim.

    Args:
        caller: The caller.
        config: Settings of the issuer.
        claims: Claims of the token.
        required: Scopes that access rules require.
    """
    problems = {
        "scopes": _scope_problem(caller, config, claims, required),
        "roles": _role_problem(caller, config, claims),
        "client id": _client_problem(caller, claims),
    }
    for name, problem in problems.items():
        if problem:
            yield Result(f"token: {name}", Status.WARNING, problem)


def _scope_problem(
    caller: Principal, config: IssuerSettings, claims: Mapping[str, Any], required: Collection[str]
) -> str:
    if config.layout.only_id_tokens:
        return ""
    if not caller.scopes:
        return _missing_scopes(config, claims, has_roles=bool(caller.roles))
    if not required or not caller.scopes.isdisjoint(required):
        return ""
    prefixes = {scope.removesuffix(end) for scope in caller.scopes for end in required if scope.endswith(end)}
    if prefixes:
        prefix = shown(min(prefixes))
        return f"its scopes begin with {prefix}; set `scope_prefix` to {prefix}"
    return "no access rule requires one of them; request one of the scopes that `gatehouse policy` lists"


def _missing_scopes(config: IssuerSettings, claims: Mapping[str, Any], *, has_roles: bool) -> str:
    paths = [f"{name}{kind}" for name in _SCOPE_CLAIMS if (kind := _kind(claims.get(name))) is not None]
    if config.scope_prefix and not set(paths).isdisjoint(config.layout.scope_claims):
        return (
            f"none begins with `scope_prefix` ({shown(config.scope_prefix)}); correct it, or request scopes "
            "of this API"
        )
    if paths:
        return f"none found; they are in the claim `{paths[0]}`: set `scope_claims` to {paths[0]}"
    return "" if has_roles else "it has none; request one of the scopes that `gatehouse policy` lists"


def _role_problem(caller: Principal, config: IssuerSettings, claims: Mapping[str, Any]) -> str:
    if caller.roles:
        return ""
    read = {*config.layout.role_claims, config.layout.client_role_claims}
    path = next((path for path in _role_paths(claims) if path not in read), None)
    if path is None or any(caller.client_roles.values()):
        return ""
    return f"none found; they may be in the claim `{shown(path)}`: set `role_claims` to {shown(path)}"


def _role_paths(claims: Mapping[str, Any], steps: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the paths of claims that may contain roles, by their name and type."""
    for name, value in claims.items():
        inner = (*steps, name)
        kind = _kind(value)
        if _ROLE_NAME.search(name) and kind is not None and name.isprintable() and " " not in name:
            yield f"{_pointer(inner)}{kind}"
        elif isinstance(value, Mapping) and len(inner) < _ROLE_DEPTH:
            yield from _role_paths(value, inner)


def _pointer(steps: tuple[str, ...]) -> str:
    """Return a claim path without its type; see settings.parse_claim_path."""
    if len(steps) == 1 and not steps[0].startswith("/"):
        return steps[0]
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def _kind(value: Any) -> str | None:
    """Return the type of names at the end of a claim path; None if the value has no names."""
    if isinstance(value, str) and value:
        return ""
    if isinstance(value, list) and any(isinstance(name, str) for name in value):
        return "[]"
    return "{}" if isinstance(value, Mapping) and value else None


def _client_problem(caller: Principal, claims: Mapping[str, Any]) -> str:
    name = next((name for name in _CLIENT_CLAIMS if isinstance(claims.get(name), str)), None)
    if caller.client_id or name is None:
        return ""
    return f"none found; it is in the claim `{name}`: set `client_id_claims` to {name}"
