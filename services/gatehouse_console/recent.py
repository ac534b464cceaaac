"""A bounded mapping that drops what was used least recently, and what was not used for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Keeps entries by key.

    Args:
        max_entries: Largest number of entries.
        seconds: How long an entry is kept after it was last used.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(
        self, max_entries: int, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._seconds = seconds
        self._monotonic = monotonic
        self._entries: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, key: str, value: V) -> None:
        self._entries[key] = (self._monotonic(), value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def get(self, key: str) -> V | None:
        """Return an entry, which is then the one used last; None if there is none."""
        value = self.pop(key)
        if value is not None:
            self[key] = value
        return value

    def pop(self, key: str) -> V | None:
        """Remove and return an entry; None if there is none."""
        used_at, value = self._entries.pop(key, (0.0, None))
        return value if self._monotonic() - used_at < self._seconds else None
