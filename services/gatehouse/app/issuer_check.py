"""Check the settings of an issuer with one of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gatehouse.app.policy import policy_scopes
from gatehouse.oauth import InvalidToken, MultiIssuerVerifier, PresentedToken
from gatehouse.runtime.doctor import Result, Status
from gatehouse.runtime.doctor.evidence import shown
from gatehouse.runtime.doctor.issuers import check_issuer
from gatehouse.runtime.doctor.refusals import explain_text
from gatehouse.runtime.doctor.tokens import check_token
from gatehouse.runtime.http_clients import HttpClients
from gatehouse.runtime.telemetry import discard_telemetry
from gatehouse.settings import (
    PRESETS,
    ConfigurationError,
    IssuerSettings,
    ProviderName,
    Settings,
    validation_message,
)


@dataclass(frozen=True, slots=True)
class IssuerReport:
    """The result of a check.

    Attributes:
        name: Which issuer was checked; "" if there is none for the token.
        results: What was checked, and what is wrong.
        caller: See TokenReport.
    """

    name: str
    results: Sequence[Result]
    caller: Mapping[str, Any] | None = None


def select_issuer(settings: Settings, issuer: str | None, changes: Mapping[str, Any]) -> Settings:
    """Return settings with only the issuer to check, or with all that it may be.

    Args:
        settings: The settings of the services.
        issuer: URL of an issuer, of the settings or another one, or its place in them, such as `issuers[0]`.
        changes: Settings of the issuer that differ.

    Raises:
        ConfigurationError: There is no issuer, or its settings are invalid.
    """
    entries = settings.issuers
    if issuer is not None:
        found = [e for i, e in enumerate(entries) if issuer in {e.issuer, f"issuers[{i}]"}]
        entries = (_changed(found[0], changes) if found else _from_options(issuer, changes),)
    elif changes and len(entries) == 1:
        entries = (_changed(entries[0], changes),)
    elif changes:
        raise ConfigurationError("--issuer: required with other options; set the URL of the issuer")
    if not entries:
        raise ConfigurationError("no issuer; use --issuer URL, or set GATEHOUSE_ISSUERS")
    return settings.model_copy(update={"issuers": entries})


def _changed(entry: IssuerSettings, changes: Mapping[str, Any]) -> IssuerSettings:
    given = {name: getattr(entry, name) for name in entry.model_fields_set} | dict(changes)
    if given.get("client_secret_file"):
        given.pop("client_secret", None)
    return _validated(given) if changes else entry


def _from_options(issuer: str, changes: Mapping[str, Any]) -> IssuerSettings:
    """Return the settings of an issuer that is not configured, as complete as they can be."""
    provider: ProviderName = changes.get("provider", "keycloak")
    layout = PRESETS[provider]
    mode = layout.modes[0] if changes.get("client_id") else "jwt"
    given = {"issuer": issuer, "mode": mode, "accept_id_tokens": layout.only_id_tokens} | dict(changes)
    if "audience" in given:
        return _validated(given)
    # The check says which audience the token has.
    return _validated(given | {"audience": "unset"}).model_copy(update={"audience": ()})


def _validated(values: Mapping[str, Any]) -> IssuerSettings:
    try:
        return IssuerSettings(**values)
    except ValidationError as error:
        raise ConfigurationError(f"settings of the issuer: {validation_message(error)}") from None


async def diagnose_token(settings: Settings, text: str) -> IssuerReport:
    """Check the issuer of a token, and the token.

    Args:
        settings: See select_issuer.
        text: The token.

    Raises:
        ConfigurationError: The CA file of an issuer cannot be used.
    """
    entries = settings.issuers
    async with AsyncExitStack() as stack:
        http_for = HttpClients(entries, discard_telemetry().tracer, settings.tls.reload_seconds, stack)
        config = entries[0] if len(entries) == 1 else _issuer_of(text, entries, http_for)
        if isinstance(config, str):
            return IssuerReport("", [Result("token", Status.FAILED, config)])
        audiences = ", ".join(config.audience) or "not set"
        used = f"provider {config.provider}, mode {config.mode}, audience {audiences}"
        results = [Result("issuer: settings", Status.OK, used)]
        results += await check_issuer("issuer", config, http_for(config))
        report = await check_token(config, http_for(config), text, scopes=policy_scopes())
    return IssuerReport(config.issuer, [*results, *report.results], report.caller)


def _issuer_of(text: str, entries: Sequence[IssuerSettings], http_for: HttpClients) -> IssuerSettings | str:
    """Return the issuer that a server would ask, or one with a similar URL, or why there is none."""
    try:
        token = PresentedToken(text)
    except InvalidToken:
        return explain_text(text)
    try:
        return MultiIssuerVerifier(entries, http_for=http_for).settings_for(token)
    except InvalidToken:
        pass
    if token.jws is None:
        return (
            "it is opaque; exactly one entry of GATEHOUSE_ISSUERS must have `mode` introspection to accept it"
        )
    name = token.jws.claims.get("iss")
    similar = [entry for entry in entries if isinstance(name, str) and _core(entry.issuer) == _core(name)]
    if similar:
        return similar[0]
    urls = ", ".join(entry.issuer for entry in entries)
    return (
        f"ISSUER_UNKNOWN: its issuer (`iss`) is {shown(name)}, and GATEHOUSE_ISSUERS has {urls}; correct the "
        "`issuer` of its entry, or add one"
    )


def _core(url: str) -> str:
    """Return a URL without what is often different by mistake."""
    return url.partition("://")[2].rstrip("/").lower()
