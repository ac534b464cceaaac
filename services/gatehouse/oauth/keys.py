"""The keys of one issuer (RFC 7517), read without a lock and refreshed in the background."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._flight import SingleFlight, wait_at_most
from gatehouse.oauth._jwks import Snapshot, describe_keys, read_keys
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable

REFRESH_SECONDS = 270.0
STALE_SECONDS = 24 * 3600.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Fetches for keys that are not known: five at once, and then one every six seconds.
FETCHES = 5
FETCH_AGAIN_SECONDS = 6.0
ABSENT_SECONDS = 10.0
ABSENT_SIZE = 1_000
START_SECONDS = 5.0


def backoff_seconds(failures: int) -> float:
    """Return the delay in seconds after `failures` consecutive failures."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]


class RateLimit:
    """A limit on the rate of attempts, with bursts (token bucket).

    Args:
        size: Largest burst.
        seconds: Time after which one more attempt is allowed.
        monotonic: Clock in seconds.
    """

    def __init__(self, size: int, seconds: float, monotonic: Callable[[], float]) -> None:
        self._size = size
        self._seconds = seconds
        self._monotonic = monotonic
        self._full_at = monotonic()

    def take(self) -> bool:
        """Return whether an attempt is allowed now, and count it."""
        full_at = max(self._full_at, self._monotonic()) + self._seconds
        if full_at - self._monotonic() > self._size * self._seconds:
            return False
        self._full_at = full_at
        return True


class KeySet:
    """The keys of one issuer.

    A known key is returned at once from an immutable snapshot, which is refreshed in the background every
    `REFRESH_SECONDS`. During an outage the last keys are used for a day.

    An unknown `kid` causes a fetch. Anyone can invent one, so these fetches are limited. A token is refused
    only if a fetch that began after it arrived does not have its key; this is remembered for
    `ABSENT_SECONDS`. Without a fetch nothing is known about the key, so the token cannot be verified now.

    Args:
        fetch: Fetches the JWK Set; raises IssuerUnavailable.
        algorithms: Accepted `alg` values.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        on_attempt: Called after each attempt with its error, or None.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Mapping[str, Any]]],
        algorithms: Sequence[str],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_attempt: Callable[[IssuerUnavailable | None], None] = lambda _: None,
    ) -> None:
        self._fetch = fetch
        self._algorithms = tuple(algorithms)
        self._monotonic = monotonic
        self._sleep = sleep
        self._on_attempt = on_attempt
        self._snapshot: Snapshot = {}
        self._fetched_at: float | None = None
        self._fetches = RateLimit(FETCHES, FETCH_AGAIN_SECONDS, monotonic)
        self._absent: TokenCache[bool] = TokenCache(ABSENT_SIZE, monotonic)
        self._failures = 0
        self._flight: SingleFlight[None, None] = SingleFlight()
        self._refresh: SingleFlight[None, None] = SingleFlight()

    @property
    def ready(self) -> bool:
        """Whether keys have been fetched within the last day."""
        return self._fetched_at is not None and self._monotonic() - self._fetched_at < STALE_SECONDS

    async def start(self) -> None:
        """Start the background refresh, and wait up to START_SECONDS for its first attempt."""
        first = self._flight.begin(None, self._attempt)
        self._refresh.begin(None, self._refresh_forever)
        await wait_at_most(START_SECONDS, self._sleep, first)

    async def aclose(self) -> None:
        """Stop the refresh, and a fetch in progress."""
        await self._refresh.aclose()
        await self._flight.aclose()

    async def key(self, kid: str | None, algorithm: str, *, other_than: object = None) -> Any:
        """Return the key `kid` for `algorithm`, or the only key for it if `kid` is None.

        Args:
            kid: Key id in the header of the token, or None.
            algorithm: Algorithm in the header of the token.
            other_than: A key that does not match; the issuer may have replaced it.

        Raises:
            InvalidToken: The issuer has no such key.
            IssuerUnavailable: The keys could not be fetched, or not yet.
        """
        found = self._known(kid, algorithm)
        if found not in (None, other_than):
            return found
        name = hashlib.blake2b(f"{algorithm} {kid!r}".encode()).digest()
        # Twice, because the response to a fetch in progress may be older than this key.
        for is_second in (False, True):
            shared = self._flight.busy(None)
            if not shared and (self._absent.get(name) or not self._fetches.take()):
                break
            await self._flight.run(None, self._attempt)
            found = self._known(kid, algorithm)
            if found not in (None, other_than):
                return found
            if not self._failures and (is_second or not shared):
                self._absent.put(name, value=True, seconds=ABSENT_SECONDS)
        if self._failures:
            raise IssuerUnavailable("keys_unavailable")
        if self._absent.get(name):
            raise InvalidToken("key_unknown")
        raise IssuerUnavailable("keys_refresh_pending")

    def _known(self, kid: str | None, algorithm: str) -> Any | None:
        return self._snapshot.get((kid, algorithm)) if self.ready else None

    async def _attempt(self) -> None:
        error: IssuerUnavailable | None = None
        try:
            document = await self._fetch()
            snapshot = read_keys(document, self._algorithms)
            if not snapshot:
                error = IssuerUnavailable("keys_unusable", detail=describe_keys(document, self._algorithms))
        except IssuerUnavailable as failure:
            error = failure
        except Exception as unexpected:  # noqa: BLE001 - must not stop the refresh; the last keys stay in use
            error = IssuerUnavailable("internal_error", detail=type(unexpected).__name__)
        if error is None:
            self._snapshot = snapshot
            self._fetched_at = self._monotonic()
            self._failures = 0
        else:
            self._failures += 1
        self._on_attempt(error)

    async def _refresh_forever(self) -> None:
        while True:
            await self._flight.run(None, self._attempt)
            if self._failures:
                await self._sleep(backoff_seconds(self._failures))
            else:
                await self._sleep(REFRESH_SECONDS)
