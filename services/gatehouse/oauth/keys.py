"""The keys of one issuer (RFC 7517): read without a lock, refreshed in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.observer import NoObserver, Observer

TTL_SECONDS = 300.0
AHEAD_SECONDS = 30.0
STALE_SECONDS = 24 * 3600.0
COOLDOWN_SECONDS = 30.0
WAIT_SECONDS = 1.0
MAX_KEYS = 64
MIN_RSA_BITS = 2048

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA",)}

Snapshot = Mapping[tuple[str, str], Any]


def read_keys(document: Mapping[str, Any], algorithms: Sequence[str]) -> Snapshot:
    """Makes the keys of a JWK Set, by (`kid`, `alg`).

    Keys that are not for verifying signatures with one of `algorithms` are left out: another `use`
    or `key_ops` (RFC 7517 sections 4.2, 4.3), another `alg`, symmetric, too short, or malformed.

    Raises:
        IssuerUnavailable: The document is no JWK Set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise IssuerUnavailable("keys_malformed")
    keys: dict[tuple[str, str], Any] = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
            continue
        for algorithm in _algorithms_of(entry):
            if algorithm not in algorithms:
                continue
            try:
                key = jwt.PyJWK(entry, algorithm).key
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue
            if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
                continue
            keys[entry["kid"], algorithm] = key
    return keys


def _algorithms_of(entry: Mapping[str, Any]) -> Sequence[str]:
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return ()
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return ()
    if entry.get("kty") == "RSA":
        able: Sequence[str] = _RSA
    elif entry.get("kty") in {"EC", "OKP"}:
        able = _CURVES.get(str(entry.get("crv")), ())
    else:
        return ()
    if "alg" in entry:
        return (entry["alg"],) if entry["alg"] in able else ()
    return able


class KeySet:
    """Keys of one issuer.

    A known key is answered at once from an immutable snapshot. A refresh runs ahead of its end in the
    background; through an outage the last good keys serve for a day. An unknown `kid` makes at most
    one fetch in 30 seconds, counted on attempts.

    Args:
        fetch: Fetches the JWK Set; raises IssuerUnavailable.
        algorithms: Accepted `alg` values.
        monotonic: Clock in seconds.
        observer: Told of each attempt.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Mapping[str, Any]]],
        algorithms: Sequence[str],
        monotonic: Callable[[], float],
        observer: Observer | None = None,
    ) -> None:
        self._fetch = fetch
        self._algorithms = tuple(algorithms)
        self._monotonic = monotonic
        self._observer = observer or NoObserver()
        self._snapshot: Snapshot = {}
        self._fetched_at: float | None = None
        self._attempted_at: float | None = None
        self._failed = False
        self._failures = 0
        self._flight: SingleFlight[None, None] = SingleFlight()
        self._refresher: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether there have been keys, and they are not a day old."""
        return self._fetched_at is not None and self._monotonic() - self._fetched_at < STALE_SECONDS

    async def start(self) -> None:
        """Makes the first attempt and begins to refresh in the background."""
        await self._attempt()
        self._refresher = asyncio.create_task(self._refresh_forever())

    async def aclose(self) -> None:
        """Ends the refresh."""
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        await self._flight.aclose()

    async def key(self, kid: str, algorithm: str) -> Any:
        """Returns the key that verifies `algorithm` under `kid`.

        Raises:
            InvalidToken: The issuer has no such key.
            IssuerUnavailable: The issuer could not be asked.
        """
        found = self._snapshot.get((kid, algorithm)) if self.ready else None
        if found is not None:
            return found
        if self._may_attempt():
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._flight.run(None, self._attempt)
            except TimeoutError:
                raise IssuerUnavailable("keys_timeout") from None
            found = self._snapshot.get((kid, algorithm)) if self.ready else None
            if found is not None:
                return found
        if self._failed or not self.ready:
            raise IssuerUnavailable("keys_unavailable")
        raise InvalidToken("key_unknown")

    def _may_attempt(self) -> bool:
        # A flight that is up is shared and costs nothing.
        return (
            self._attempted_at is None
            or self._flight.busy
            or self._monotonic() - self._attempted_at >= COOLDOWN_SECONDS
        )

    async def _attempt(self) -> None:
        self._attempted_at = self._monotonic()
        try:
            snapshot = read_keys(await self._fetch(), self._algorithms)
            if not snapshot:
                raise IssuerUnavailable("keys_none_usable")
        except IssuerUnavailable:
            self._failed = True
            self._failures += 1
            self._observer.keys_refreshed(ok=False)
            return
        self._snapshot = snapshot
        self._fetched_at = self._monotonic()
        self._failed = False
        self._failures = 0
        self._observer.keys_refreshed(ok=True)

    async def _refresh_forever(self) -> None:
        while True:
            if self._failures:
                await asyncio.sleep(min(COOLDOWN_SECONDS, 0.5 * 2 ** min(self._failures, 6)))
            else:
                await asyncio.sleep(TTL_SECONDS - AHEAD_SECONDS)
            await self._flight.run(None, self._attempt)
