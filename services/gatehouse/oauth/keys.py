"""The keys of one issuer (RFC 7517), read without a lock and refreshed in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.observer import NoObserver, Observer

TTL_SECONDS = 300.0
AHEAD_SECONDS = 30.0
STALE_SECONDS = 24 * 3600.0
COOLDOWN_SECONDS = 30.0
START_SECONDS = 5.0
MAX_KEYS = 64
RSA_BITS = range(2048, 8192 + 1)

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS: Mapping[tuple[str, str], Sequence[str]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Snapshot = Mapping[tuple[str | None, str], Any]


def backoff_seconds(failures: int) -> float:
    """Return the delay in seconds after `failures` consecutive failures: 1 s, doubling, at most 30 s."""
    return min(COOLDOWN_SECONDS, 2.0 ** min(failures - 1, 5))


def read_keys(document: Mapping[str, Any], algorithms: Sequence[str]) -> Snapshot:
    """Return the keys of a JWK Set, by (`kid`, `alg`).

    Keys that cannot verify signatures with one of `algorithms` are skipped: another `use` or `key_ops`
    (RFC 7517 sections 4.2, 4.3), another `alg`, symmetric, private, weak, or malformed. If different keys
    have the same `kid`, none of them is used.

    `kid` is optional (RFC 7515 section 4.1.4). The key for a token without one is under None, if there is
    only one key for its algorithm.

    Raises:
        IssuerUnavailable: The document is not a JWK Set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise IssuerUnavailable("keys_malformed")
    found: dict[tuple[str | None, str], list[Any]] = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid", ""), str):
            continue
        for algorithm in _algorithms_of(entry):
            key = _read_key(entry, algorithm) if algorithm in algorithms else None
            if key is None:
                continue
            for kid in {None, entry.get("kid")}:
                same = found.setdefault((kid, algorithm), [])
                if key not in same:
                    same.append(key)
    return {name: keys[0] for name, keys in found.items() if len(keys) == 1}


def _read_key(entry: Mapping[str, Any], algorithm: str) -> Any | None:
    try:
        key = jwt.PyJWK(dict(entry), algorithm).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, OverflowError):
        return None
    return None if isinstance(key, RSAPublicKey) and key.key_size not in RSA_BITS else key


def _algorithms_of(entry: Mapping[str, Any]) -> Sequence[str]:
    if entry.get("use", "sig") != "sig" or not _PRIVATE.isdisjoint(entry):
        return ()
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return ()
    kind = str(entry.get("kty"))
    able = _RSA if kind == "RSA" else _ALGORITHMS.get((kind, str(entry.get("crv"))), ())
    if "alg" in entry:
        return (entry["alg"],) if entry["alg"] in able else ()
    return able


class KeySet:
    """The keys of one issuer.

    A known key is returned at once from an immutable snapshot, which is refreshed in the background before it
    expires. During an outage the last keys are used for a day. An unknown `kid` causes at most one fetch in
    30 seconds, counted on attempts. Fetches in the background do not count, so that a key that was created
    just after a refresh is found at once.

    Args:
        fetch: Fetches the JWK Set; raises IssuerUnavailable.
        algorithms: Accepted `alg` values.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        observer: Notified of each attempt.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Mapping[str, Any]]],
        algorithms: Sequence[str],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        observer: Observer | None = None,
    ) -> None:
        self._fetch = fetch
        self._algorithms = tuple(algorithms)
        self._monotonic = monotonic
        self._sleep = sleep
        self._observer = observer or NoObserver()
        self._snapshot: Snapshot = {}
        self._fetched_at: float | None = None
        self._last_fetch_at: float | None = None
        self._failures = 0
        self._flight: SingleFlight[None, None] = SingleFlight()
        self._refresher: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether keys have been fetched within the last day."""
        return self._fetched_at is not None and self._monotonic() - self._fetched_at < STALE_SECONDS

    async def start(self) -> None:
        """Start the background refresh, and wait up to START_SECONDS for its first attempt."""
        first = self._flight.begin(None, self._attempt)
        self._refresher = asyncio.create_task(self._refresh_forever())
        await asyncio.wait((first,), timeout=START_SECONDS)

    async def aclose(self) -> None:
        """Stop the refresh."""
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        await self._flight.aclose()

    async def key(self, kid: str | None, algorithm: str) -> Any:
        """Return the key `kid` for `algorithm`, or the only key for it if `kid` is None.

        Raises:
            InvalidToken: The issuer has no such key.
            IssuerUnavailable: The keys could not be fetched.
        """
        found = self._known(kid, algorithm)
        # Twice, because the response to a fetch in progress may be older than this key.
        for _ in range(2):
            if found is not None or not self._may_fetch():
                break
            await self._flight.run(None, self._attempt)
            found = self._known(kid, algorithm)
        if found is not None:
            return found
        if self._failures or not self.ready:
            raise IssuerUnavailable("keys_unavailable")
        raise InvalidToken("key_unknown")

    def _known(self, kid: str | None, algorithm: str) -> Any | None:
        return self._snapshot.get((kid, algorithm)) if self.ready else None

    def _may_fetch(self) -> bool:
        if self._flight.busy(None):
            return True  # shares the fetch in progress
        now = self._monotonic()
        if self._last_fetch_at is not None and now - self._last_fetch_at < COOLDOWN_SECONDS:
            return False
        self._last_fetch_at = now
        return True

    async def _attempt(self) -> None:
        try:
            snapshot = read_keys(await self._fetch(), self._algorithms)
        except Exception:  # noqa: BLE001 - an unexpected error must not stop the refresh; the last keys stay in use
            snapshot = {}
        if not snapshot:
            self._failures += 1
            self._observer.keys_refreshed(ok=False)
            return
        self._snapshot = snapshot
        self._fetched_at = self._monotonic()
        self._failures = 0
        self._observer.keys_refreshed(ok=True)

    async def _refresh_forever(self) -> None:
        while True:
            await self._flight.run(None, self._attempt)
            if self._failures:
                await self._sleep(backoff_seconds(self._failures))
            else:
                await self._sleep(TTL_SECONDS - AHEAD_SECONDS)
