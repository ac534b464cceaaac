"""Log lines, metrics and hints about issuers, for operators."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from structlog.typing import FilteringBoundLogger

from gatehouse.oauth import OAuthError, Source

# An issuer that fails for some tokens only changes its state with each request.
QUIET_SECONDS = 5.0

# By the end of the reason.
_HINTS = {
    "discovery_issuer_mismatch": "set `issuer` to exactly the value found, or fix what the issuer reports",
    "discovery_failed": "check `issuer`, or set `discovery_url` to the URL of the metadata",
    "discovery_not_json": "check `issuer`, or set `discovery_url` to the URL of the metadata",
    "discovery_malformed": "fix the metadata of the issuer, or set `allow_http` if it is meant to use http",
    "keys_unusable": "set `algorithms` to those of the keys",
    "introspection_refused": "check `client_id` and `client_secret`, and that the client may introspect",
    "introspection_gone": "check `introspection_endpoint`",
    "introspection_endpoint_missing": "set `mode` to jwt, or `introspection_endpoint` if the issuer has one",
    "jwks_uri_missing": "set `jwks_uri`, or `mode` to introspection",
    "invalid_client": "check the client id and the client secret",
    "unauthorized_client": "check the client secret, and that the client may use client credentials",
    "invalid_scope": "check the scopes of the client",
    "invalid_target": "check `audience` and `resource`",
    "_redirected": "set the URL to which it redirects",
    "_unreachable": "check that the issuer runs, its URL, `proxy`, and `ca_file` if its CA is private",
    "_timeout": "check that the issuer is not overloaded, and the network",
}
_HINT = "look for the request in the log of the issuer"
_CREDENTIALS = {"introspection_refused", "invalid_client", "unauthorized_client", "access_denied"}


def hint_for(reason: str) -> str:
    """Return what an operator can do about the reason of an OAuthError."""
    return next((hint for end, hint in _HINTS.items() if reason.endswith(end)), _HINT)


@dataclass(slots=True)
class _State:
    reason: str = ""
    detail: str = ""
    logged: str = ""
    quiet_until: float = 0.0
    pending: asyncio.TimerHandle | None = None


class IssuerTelemetry:
    """The observer of the `oauth` package.

    The first failure of an issuer, each change of the reason and the end of the failure are logged, but at
    most one line per issuer and use in `quiet_seconds`; then the latest state is logged. A rejected client is
    logged as an error, because only an operator can fix it.

    Args:
        logger: Gets the lines.
        meter: Makes the instruments.
        quiet_seconds: Time between two lines about one issuer.
    """

    def __init__(
        self, logger: FilteringBoundLogger, meter: Meter, quiet_seconds: float = QUIET_SECONDS
    ) -> None:
        self._logger = logger
        self._quiet_seconds = quiet_seconds
        self._states: dict[tuple[str, str], _State] = {}
        # A plain counter, because adding to one of the SDK takes 16 us.
        self._verifications: Counter[Source] = Counter()
        meter.create_observable_counter(
            "gatehouse.token.verifications",
            [self._observe_verifications],
            unit="{token}",
            description="Verified tokens by source",
        )
        self._refreshes = meter.create_counter(
            "gatehouse.keys.refreshes", unit="{fetch}", description="Attempts to fetch keys by outcome"
        )
        meter.create_observable_gauge(
            "gatehouse.issuer.available",
            [self._observe_states],
            description="1 if the latest request to the issuer succeeded, otherwise 0",
        )

    def verified(self, source: Source) -> None:
        """Count a verification; see oauth.Observer."""
        self._verifications[source] += 1

    def issuer_asked(self, issuer: str, use: str, error: OAuthError | None) -> None:
        """Record the state of an issuer; see oauth.Observer."""
        if use == "keys":
            self._refreshes.add(1, {"outcome": "ok" if error is None else "failed"})
        state = self._states.setdefault((issuer, use), _State())
        reason = "" if error is None else str(error)
        if reason == state.reason:
            return
        state.reason, state.detail = reason, getattr(error, "detail", "")
        loop = asyncio.get_running_loop()
        if loop.time() >= state.quiet_until:
            self._log(issuer, use, state)
        elif state.pending is None:
            state.pending = loop.call_at(state.quiet_until, self._log, issuer, use, state)

    def problems(self) -> list[str]:
        """Return the issuers that are unavailable, each with the reason."""
        return [
            f"issuer {issuer}: {state.reason.upper()}"
            for (issuer, use), state in self._states.items()
            if state.reason and not use.startswith("token")
        ]

    def _log(self, issuer: str, use: str, state: _State) -> None:
        state.pending = None
        if state.reason == state.logged:
            return
        state.logged = state.reason
        state.quiet_until = asyncio.get_running_loop().time() + self._quiet_seconds
        if not state.reason:
            self._logger.info("issuer available", issuer=issuer, use=use)
            return
        fields: dict[str, Any] = {"issuer": issuer, "use": use, "reason": state.reason.upper()}
        if state.detail:
            fields["detail"] = state.detail
        fields["hint"] = hint_for(state.reason)
        log = self._logger.error if state.reason in _CREDENTIALS else self._logger.warning
        log("issuer unavailable", **fields)

    def _observe_verifications(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(count, {"source": name}) for name, count in self._verifications.copy().items()]

    def _observe_states(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(int(not state.reason), {"issuer": issuer, "use": use})
            for (issuer, use), state in self._states.copy().items()
        ]
