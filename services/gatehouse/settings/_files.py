"""Files that change while a process runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path


class FileCheck:
    """Whether files have changed since they were accepted.

    Args:
        files: The files.
        seconds: Shortest time between two checks.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(
        self, files: Sequence[Path], seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = files
        self._seconds = seconds
        self._monotonic = monotonic
        self._checked_at = monotonic()
        self._accepted = self._found = self._read_versions()

    @property
    def versions(self) -> object:
        """What distinguishes the files that the last check found from other versions of them."""
        return self._found

    def changed(self) -> bool:
        """Return whether a check is due and finds files that were not accepted yet."""
        now = self._monotonic()
        if now - self._checked_at < self._seconds:
            return False
        self._checked_at = now
        self._found = self._read_versions()
        return self._found != self._accepted

    def accept(self) -> None:
        """Accept the files that the last check found."""
        self._accepted = self._found

    def _read_versions(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError:
            return ()
