"""The log of the services."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 1024 * 1024


class ServiceLog:
    """A file that gets what this process writes to standard output: JSON lines of the services.

    Args:
        file: The file, which is created.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        sys.stdout.flush()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.close(descriptor)

    def lines(self, trace_id: str = "") -> list[dict[str, Any]]:
        """Return the newest lines, at most MAX_BYTES; only those of a trace unless its id is ""."""
        with self._file.open("rb") as stream:
            start = max(0, self._file.stat().st_size - MAX_BYTES)
            stream.seek(start)
            raw = stream.read().splitlines()[1 if start else 0 :]
        found = [json.loads(line) for line in raw if line.startswith(b"{") and line.endswith(b"}")]
        return [line for line in found if trace_id in {"", line.get("trace_id")}]

    def clear(self) -> None:
        """Remove all lines."""
        os.truncate(self._file, 0)
