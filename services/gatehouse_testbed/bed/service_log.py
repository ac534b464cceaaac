"""The log of the services: the newest lines that this process has written to standard output."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections import deque
from threading import Thread
from typing import Any

MAX_LINES = 10_000
# A longer line is kept in parts, which are not JSON.
_MAX_LINE_BYTES = 64 * 1024


class ServiceLog:
    """Takes what is written to a file descriptor: JSON lines of the services, the newest MAX_LINES of them.

    Args:
        descriptor: From now on, an end of a pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._began = 0.0
        reading, writing = os.pipe()
        os.dup2(writing, descriptor)
        os.close(writing)
        Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, "rb") as stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                self._lines.append(line)

    def lines(self, trace_id: str = "") -> list[dict[str, Any]]:
        """Return the lines since `clear`, oldest first.

        A last line counts what is not JSON, if anything, such as what a library has printed.

        Args:
            trace_id: Of the trace; "" for all lines.
        """
        found, unreadable = [], 0
        for raw in self._lines.copy():
            try:
                line = json.loads(raw)
                began = _began_at(line)
            except (ValueError, TypeError, KeyError):
                unreadable += 1
                continue
            if began >= self._began and trace_id in {"", line.get("trace_id")}:
                found.append(line)
        if unreadable and not trace_id:
            found.append({"level": "warning", "event": "lines that are not JSON", "count": unreadable})
        return found

    def clear(self) -> None:
        """Remove all lines, also those about calls that have begun and will end later."""
        self._began = time.time()
        self._lines.clear()


def _began_at(line: dict[str, Any]) -> float:
    """Return when what a line is about began, in seconds since the epoch.

    Raises:
        ValueError, TypeError, KeyError: It is not a line of the services.
    """
    ended: float = dt.datetime.fromisoformat(line["timestamp"]).timestamp()
    began: float = ended - line.get("duration_ms", 0) / 1000
    return began
