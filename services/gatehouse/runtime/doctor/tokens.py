"""Check of a token: verify it as a server would, and say what it was read as, or why it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from gatehouse.client.token_endpoint import introspect
from gatehouse.oauth import (
    InvalidToken,
    IssuerUnavailable,
    Metadata,
    NoObserver,
    OAuthError,
    PresentedToken,
    Principal,
    discover,
)
from gatehouse.runtime.doctor.evidence import Evidence, Explanation
from gatehouse.runtime.doctor.issuers import open_verifier
from gatehouse.runtime.doctor.refusals import explain_refusal, explain_text
from gatehouse.runtime.doctor.result import Result, Status
from gatehouse.runtime.doctor.rights import check_rights, describe_caller
from gatehouse.settings import PRESETS, IssuerSettings, ProviderName

# How issuers of these providers are called, if they have no domain of their own.
_ISSUERS: Mapping[ProviderName, str] = {
    "keycloak": "/realms/",
    "auth0": ".auth0.com",
    "okta": ".okta.com",
    "entra": "login.microsoftonline.com|sts.windows.net",
    "cognito": "cognito-idp.",
    "google": "accounts.google.com",
    "zitadel": ".zitadel.cloud",
    "authentik": "/application/o/",
}


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What is known about a token.

    Attributes:
        results: The problems, or that it is accepted.
        caller: What it was read as, perhaps with other settings; None if it could not be verified.
    """

    results: Sequence[Result]
    caller: Mapping[str, Any] | None = None


async def check_token(
    config: IssuerSettings,
    http: httpx.AsyncClient,
    text: str,
    *,
    scopes: Collection[str],
    clock: Callable[[], float] = time.time,
) -> TokenReport:
    """Verify a token with the verifier of the services.

    If it is refused, the check continues with settings that accept it, to find further problems.

    Args:
        config: Settings of its issuer.
        http: HTTP client for this issuer.
        text: The token.
        scopes: Scopes that access rules require.
        clock: Seconds since the epoch.
    """
    try:
        token = PresentedToken(text)
    except InvalidToken:
        return TokenReport([Result("token", Status.FAILED, explain_text(text))])
    metadata = await _metadata(config, http)
    now = clock()
    problems: dict[str, Result] = {}
    while True:
        outcome = await _verify(config, http, token, now)
        if isinstance(outcome, IssuerUnavailable):
            if config.mode != "hybrid":
                outage = f"it cannot be verified ({outcome}); correct what failed above first"
                return TokenReport([*problems.values(), _failed(outage)])
            # The check of introspection has reported it.
            config = config.model_copy(update={"mode": "jwt"})
            continue
        claims = await _claims(config, http, token, metadata)
        if isinstance(outcome, Principal):
            accepted = [*problems.values()] or [Result("token", Status.OK, "accepted")]
            rights = check_rights(outcome, config, claims, scopes)
            return TokenReport([*accepted, *rights], describe_caller(outcome, config, token, claims))
        reason = str(outcome)
        evidence = Evidence(token, claims, config, now, jwks_uri=metadata.jwks_uri)
        if reason == "token_type_mismatch":
            evidence = evidence.with_providers(await _providers(config, http, token, now))
            if evidence.is_id_token:
                problems.clear()  # such as that its audience is a client
        explanation = explain_refusal(reason, evidence)
        change = _change(config, now, explanation)
        if reason in problems or change is None:
            problems.setdefault(reason, _failed(explanation.detail))
            return TokenReport([*problems.values()])
        problems[reason] = _failed(explanation.detail)
        config, now = change


def _change(
    config: IssuerSettings, now: float, explanation: Explanation
) -> tuple[IssuerSettings, float] | None:
    """Return settings and time with which the check can continue, None if there are none."""
    if explanation.now is not None and config.mode != "introspection":
        # At present the issuer would say that the token is not active.
        return config.model_copy(update={"mode": "jwt"}), explanation.now
    return (config.model_copy(update=dict(explanation.changes)), now) if explanation.changes else None


def _failed(detail: str) -> Result:
    return Result("token", Status.FAILED, detail)


async def _verify(
    config: IssuerSettings, http: httpx.AsyncClient, token: PresentedToken, now: float
) -> Principal | OAuthError:
    async with open_verifier(config, http, NoObserver(), clock=lambda: now) as verifier:
        await verifier.start()
        try:
            return await verifier.verify(token)
        except (InvalidToken, IssuerUnavailable) as error:
            return error


async def _metadata(config: IssuerSettings, http: httpx.AsyncClient) -> Metadata:
    """Return the metadata of the issuer, without endpoints if there is none."""
    try:
        return await discover(http, config.issuer, config.discovery_url, allow_http=config.allow_http)
    except IssuerUnavailable:
        return Metadata(config.issuer)


async def _claims(
    config: IssuerSettings, http: httpx.AsyncClient, token: PresentedToken, metadata: Metadata
) -> Mapping[str, Any]:
    """Return the claims of a token, in mode introspection with those of the response."""
    claims = token.jws.claims if token.jws is not None else {}
    endpoint = config.introspection_endpoint or metadata.introspection_endpoint
    if config.mode != "introspection" or not endpoint or config.client_secret is None:
        return claims
    secret = config.client_secret.get_secret_value()
    try:
        response = await introspect(
            http, endpoint, config.client_id or "", secret, token.value, allow_http=config.allow_http
        )
    except OAuthError:
        return claims
    return {**claims, **response}


async def _providers(
    config: IssuerSettings, http: httpx.AsyncClient, token: PresentedToken, now: float
) -> Sequence[ProviderName]:
    """Return the other providers whose preset accepts a token; only one if its issuer is known."""
    accepting: list[ProviderName] = []
    for provider in PRESETS:
        other = config.model_copy(update={"provider": provider, "access_token_marks": None})
        if provider != config.provider and isinstance(await _verify(other, http, token, now), Principal):
            accepting.append(provider)
    known = [
        name for name in accepting if any(p in config.issuer for p in _ISSUERS.get(name, "").split("|") if p)
    ]
    return known or accepting
