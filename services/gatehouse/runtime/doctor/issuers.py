"""Checks of an issuer: metadata, keys, the client that introspects tokens, and the clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

import httpx

from gatehouse.oauth import (
    InvalidToken,
    IssuerUnavailable,
    MultiIssuerVerifier,
    NoObserver,
    OAuthError,
    Observer,
    PresentedToken,
    discover,
)
from gatehouse.runtime.doctor.result import CHECK_SECONDS, Problem, Result, Status, attempt
from gatehouse.runtime.issuers import hint_for
from gatehouse.settings import IssuerSettings, VerifyMode

# A server may cache its Date for a second, and a busy one for a little longer.
_DATE_SECONDS = 2.0


def explain_oauth_error(error: OAuthError, setting: str = "") -> Problem:
    """Return why an issuer cannot be used, and how to fix it.

    Args:
        error: What happened.
        setting: Where the client is configured, if it is not that of the issuer.
    """
    reason, detail = str(error), getattr(error, "detail", "")
    parts = [f"{setting}: " if setting else "", reason, f" ({detail})" if detail else ""]
    return Problem(f"{''.join(parts)}; {hint_for(reason)}")


async def check_issuer(name: str, config: IssuerSettings, http: httpx.AsyncClient) -> Sequence[Result]:
    """Check an issuer as a server would use it.

    Args:
        name: What to call it.
        config: Its settings.
        http: HTTP client for this issuer only; its hooks are replaced.
    """
    clocks = ClockComparison(time.time)
    http.event_hooks = {"request": [clocks.on_request], "response": [clocks.on_response]}
    results: list[Result] = []
    if _needs_metadata(config):
        results.append(await attempt(f"{name}: discovery", _discover(config, http)))
    if all(result.status is Status.OK for result in results):
        checks = []
        if config.mode != "introspection":
            checks.append(attempt(f"{name}: keys", _check_keys(config, http)))
        if config.mode != "jwt":
            checks.append(attempt(f"{name}: introspection", _check_introspection(config, http)))
        results += await asyncio.gather(*checks)
    if clocks.compared:
        results.append(await attempt(f"{name}: clock", clocks.check(config.leeway_seconds)))
    return results


def _needs_metadata(config: IssuerSettings) -> bool:
    needs_keys, needs_introspection = config.mode != "introspection", config.mode != "jwt"
    return (needs_keys and not config.jwks_uri) or (needs_introspection and not config.introspection_endpoint)


async def _discover(config: IssuerSettings, http: httpx.AsyncClient) -> str:
    """Fetch the metadata."""
    try:
        await discover(http, config.issuer, config.discovery_url, allow_http=config.allow_http)
    except IssuerUnavailable as error:
        raise explain_oauth_error(error) from None
    return config.issuer


async def _check_keys(config: IssuerSettings, http: httpx.AsyncClient) -> str:
    """Fetch the keys, and look for one that can be used with the accepted algorithms."""
    last = _LastErrors()
    async with open_verifier(_in_mode(config, "jwt"), http, last) as verifier:
        await verifier.start()
    error = last.errors["keys"]
    if error is not None:
        raise explain_oauth_error(error)
    return f"usable with {', '.join(config.algorithms)}"


async def _check_introspection(config: IssuerSettings, http: httpx.AsyncClient) -> str:
    """Ask about a random token, which must be inactive."""
    # In this mode the verifier takes opaque tokens.
    async with open_verifier(_in_mode(config, "introspection"), http, NoObserver()) as verifier:
        try:
            await verifier.verify(PresentedToken(secrets.token_urlsafe()))
        except InvalidToken:
            return f"accepts the client {config.client_id}"
        except IssuerUnavailable as error:
            raise explain_oauth_error(error) from None
    raise Problem("a random token is active; correct `introspection_endpoint`")


def _in_mode(config: IssuerSettings, mode: VerifyMode) -> IssuerSettings:
    return config.model_copy(update={"mode": mode})


@asynccontextmanager
async def open_verifier(
    config: IssuerSettings,
    http: httpx.AsyncClient,
    observer: Observer,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[MultiIssuerVerifier]:
    """Open the verifier of the services for one issuer, with more time for its requests."""
    config = config.model_copy(update={"timeout_seconds": CHECK_SECONDS - 1})
    verifier = MultiIssuerVerifier([config], http_for=lambda _: http, observer=observer, clock=clock)
    try:
        yield verifier
    finally:
        await verifier.aclose()


class _LastErrors(NoObserver):
    """Keeps the error of the latest request for each use."""

    def __init__(self) -> None:
        self.errors: dict[str, OAuthError | None] = {}

    def issuer_asked(self, issuer: str, use: str, error: OAuthError | None) -> None:  # noqa: ARG002
        """See Observer."""
        self.errors[use] = error


class ClockComparison:
    """Compares the clock of this machine with the `Date` of responses (RFC 9110 section 6.6.1).

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.compared = False
        self._ahead = 0.0

    async def on_request(self, request: httpx.Request) -> None:
        """Note when a request was sent."""
        request.extensions["gatehouse_sent_at"] = self._clock()

    async def on_response(self, response: httpx.Response) -> None:
        """Compare the time of a response with the time between its request and now."""
        try:
            date = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return
        self.compared = True
        now, sent_at = self._clock(), response.request.extensions["gatehouse_sent_at"]
        earliest = sent_at - 1 - _DATE_SECONDS
        self._ahead = max(earliest - date, 0.0) or min(now - date, 0.0)

    async def check(self, leeway: float) -> str:
        """Return that both clocks agree within `leeway` seconds."""
        skew = round(abs(self._ahead))
        if skew == 0:
            return "agrees with this machine"
        direction = "ahead of" if self._ahead > 0 else "behind"
        detail = f"this machine is {skew} s {direction} the issuer"
        fix = "synchronize the clocks (NTP)"
        if skew > leeway:
            raise Problem(f"{detail}, more than `leeway_seconds` ({leeway:g}): tokens are refused; {fix}")
        raise Problem(f"{detail}, within `leeway_seconds` ({leeway:g}); {fix}", Status.WARNING)
