"""A bounded cache whose entries end by themselves, keyed by a keyed hash of the token."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


class TokenCache(Generic[V]):
    """Least recently used goes first; no entry outlives its time to live.

    Keys are BLAKE2b (RFC 7693) under a secret of this process, so that a memory dump or a timing difference
    gives away no token. The key is bound to `context`: an entry made for one issuer, endpoint and client can
    never answer for another.

    Args:
        size: Greatest number of entries.
        monotonic: Clock in seconds.
        context: What the entries hold good for: issuer, endpoint, client.
    """

    def __init__(self, size: int, monotonic: Callable[[], float], context: Sequence[str | None] = ()) -> None:
        self._size = size
        self._monotonic = monotonic
        # Copied for each token: to set one up anew costs more than to run it over a token.
        self._mac = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)
        self._mac.update(json.dumps(list(context)).encode() + b"\n")
        self._entries: OrderedDict[bytes, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, token: str) -> bytes:
        """Returns the key of `token`, which is ASCII."""
        mac = self._mac.copy()
        mac.update(token.encode("ascii"))
        return mac.digest()

    def get(self, key: bytes) -> V | None:
        """Returns the value of `key`, or None when there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._monotonic() >= entry[1]:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, value: V, seconds: float) -> None:
        """Keeps `value` for `seconds`; not at all when that is not positive."""
        if seconds <= 0:
            self.discard(key)
            return
        self._entries[key] = (value, self._monotonic() + seconds)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def discard(self, key: bytes) -> None:
        """Forgets `key`."""
        self._entries.pop(key, None)
