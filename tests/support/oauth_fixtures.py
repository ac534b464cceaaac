"""Fixtures for the tests of `oauth`: issuers on loopback, a manual clock, and verifiers that use both."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, Self

import httpx
import pytest

from gatehouse.oauth import (
    InvalidToken,
    IssuerUnavailable,
    MultiIssuerVerifier,
    OAuthError,
    PresentedToken,
    Principal,
)
from gatehouse.settings import IssuerSettings
from tests.support.oauth_issuers import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    LoopbackIssuer,
    ManualTime,
    loopback_issuer,
)

ANSWER_SECONDS: float = IssuerSettings.model_fields["timeout_seconds"].default


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return a shared TLS context, because loading the authorities takes longer than most tests."""
    return ssl.create_default_context()


class CountingObserver:
    """An observer that counts verifications and records the result of each request to an issuer."""

    def __init__(self) -> None:
        self.verifications: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []

    def verified(self, source: str) -> None:
        self.verifications[source] += 1

    def issuer_asked(self, issuer: str, use: str, error: OAuthError | None) -> None:
        self.asked.append((use, "" if error is None else str(error)))


class Stopwatch:
    """Measures a block in seconds, without the time in which the machine did not run the event loop."""

    TICK = 0.01

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stalled = 0.0
        self._started = self._due = 0.0
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._started = asyncio.get_running_loop().time()
        self._due = self._started + self.TICK
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        now = asyncio.get_running_loop().time()
        self.seconds = now - self._started - self._stalled - max(0.0, now - self._due)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.TICK)
            now = loop.time()
            self._stalled += max(0.0, now - self._due)
            self._due = now + self.TICK


class Verifier(MultiIssuerVerifier):
    """A MultiIssuerVerifier with one HTTP client and one timeout, which also accepts tokens as text."""

    def __init__(
        self,
        configs: Sequence[IssuerSettings],
        *,
        http: httpx.AsyncClient,
        answer_seconds: float = ANSWER_SECONDS,
        **options: Any,
    ) -> None:
        changes = {"timeout_seconds": answer_seconds}
        configs = [config.model_copy(update=changes) for config in configs]
        super().__init__(configs, http_for=lambda _: http, **options)

    async def verify(self, token: PresentedToken | str, **options: Any) -> Principal:
        presented = PresentedToken(token) if isinstance(token, str) else token
        return await super().verify(presented, **options)


class MakeVerifier(Protocol):
    async def __call__(self, *configs: IssuerSettings, start: bool = True, **options: Any) -> Verifier: ...


def config(issuer: LoopbackIssuer, mode: str = "jwt", /, **changes: Any) -> IssuerSettings:
    """Return the configuration of `issuer`, with `changes`."""
    values: dict[str, Any] = {
        "issuer": issuer.issuer,
        "audience": AUDIENCE,
        "mode": mode,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    return IssuerSettings(**(values | changes))


def reason_of(error: pytest.ExceptionInfo[Any]) -> str:
    """Return the reason of a caught error."""
    reason: str = error.value.reason
    return reason


async def refusal(verifier: Verifier, token: str, *, online: bool = False) -> str:
    """Return the reason for which `token` is refused."""
    with pytest.raises(InvalidToken) as caught:
        await verifier.verify(token, online=online)
    return reason_of(caught)


async def outage(verifier: Verifier, token: str, *, online: bool = False) -> str:
    """Return the reason for which `token` cannot be verified."""
    with pytest.raises(IssuerUnavailable) as caught:
        await verifier.verify(token, online=online)
    return reason_of(caught)


@pytest.fixture
def manual_time() -> ManualTime:
    return ManualTime()


@pytest.fixture
def observer() -> CountingObserver:
    return CountingObserver()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=tls_context()) as client:
        yield client


@pytest.fixture
async def idp(manual_time: ManualTime) -> AsyncIterator[LoopbackIssuer]:
    async with loopback_issuer(manual_time.clock) as issuer:
        yield issuer


@pytest.fixture
async def other_idp(manual_time: ManualTime) -> AsyncIterator[LoopbackIssuer]:
    async with loopback_issuer(manual_time.clock) as issuer:
        yield issuer


@pytest.fixture
async def make_verifier(
    http: httpx.AsyncClient, manual_time: ManualTime, observer: CountingObserver
) -> AsyncIterator[MakeVerifier]:
    async with AsyncExitStack() as stack:

        async def make(*configs: IssuerSettings, start: bool = True, **options: Any) -> Verifier:
            defaults: dict[str, Any] = {
                "http": http,
                # Long, so that only the tests of the timeout depend on the speed of the machine.
                "answer_seconds": 60.0,
                "clock": manual_time.clock,
                "monotonic": manual_time.monotonic,
                "sleep": manual_time.sleep,
                "observer": observer,
            }
            verifier = Verifier(configs, **(defaults | options))
            stack.push_async_callback(verifier.aclose)
            if start:
                await verifier.start()
            return verifier

        yield make
