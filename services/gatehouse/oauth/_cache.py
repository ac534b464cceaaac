"""A bounded cache with a lifetime per entry, and keyed hashes of tokens as its keys."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")


class TokenHasher:
    """Hash tokens with BLAKE2b (RFC 7693) under a secret of this hasher.

    Neither a memory dump nor a timing difference reveals a token. Another hasher makes other hashes.
    """

    def __init__(self) -> None:
        # Copied for each token, because the key setup costs more than hashing a token.
        self._mac = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)

    def hash(self, token: str) -> bytes:
        """Return the hash of an ASCII token."""
        mac = self._mac.copy()
        mac.update(token.encode("ascii"))
        return mac.digest()


class _Entry(NamedTuple, Generic[V]):
    value: V
    ends: float
    size: int


class TokenCache(Generic[V]):
    """A cache that evicts the least recently used entry; no entry outlives its lifetime.

    Args:
        size: Maximum number of entries.
        monotonic: Clock in seconds.
        max_bytes: Maximum size of all values together.
    """

    def __init__(self, size: int, monotonic: Callable[[], float], max_bytes: float = math.inf) -> None:
        self._size = size
        self._monotonic = monotonic
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, _Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> V | None:
        """Return the value of `key`, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._monotonic() >= entry.ends:
            self.discard(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: bytes, value: V, seconds: float, size: int = 0) -> None:
        """Store `value`, of `size` bytes, for `seconds`; remove it if they are not positive."""
        self.discard(key)
        if seconds <= 0:
            return
        self._entries[key] = _Entry(value, self._monotonic() + seconds, size)
        self._bytes += size
        while len(self._entries) > self._size or self._bytes > self._max_bytes:
            self.discard(next(iter(self._entries)))

    def discard(self, key: bytes) -> None:
        """Remove `key` if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size
