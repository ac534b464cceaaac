"""The log lines of a trace, from the JSON logs of the services."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gatehouse_console.text import shorten

MAX_BYTES = 4 * 1024 * 1024
MAX_LINES = 200
_MAX_VALUE_CHARS = 500
_OWN_COLUMNS = ("timestamp", "level", "event", "trace_id")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log line.

    Attributes:
        service: Whose it is.
        timestamp: As in the log.
        level: Such as `warning`.
        event: What happened.
        fields: Its other fields.
    """

    service: str
    timestamp: str
    level: str
    event: str
    fields: Mapping[str, str]

    @classmethod
    def of(cls, service: str, line: Mapping[str, Any]) -> LogLine:
        """Return a line as it is shown, with long values cut."""
        shown = {str(name): _shown(value) for name, value in line.items()}
        own = (shown.pop(name, "") for name in _OWN_COLUMNS)
        timestamp, level, event, _ = own
        return cls(service, timestamp, level, event, shown)


@dataclass(frozen=True, slots=True)
class LogLines:
    """The lines of a trace.

    Attributes:
        lines: The newest of them, in order of time; at most MAX_LINES.
        problems: Which files cannot be read.
    """

    lines: list[LogLine]
    problems: list[str]


def _lines_of(file: Path, trace_id: str) -> list[dict[str, Any]]:
    """Return the lines of a trace in the last MAX_BYTES of a log.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        start = max(0, file.stat().st_size - MAX_BYTES)
        stream.seek(start)
        raw = stream.read(MAX_BYTES).splitlines()[1 if start else 0 :]
    found = (_parse(line) for line in raw if line.startswith(b"{") and trace_id.encode() in line)
    return [line for line in found if line.get("trace_id") == trace_id]


async def read_log_lines(files: Iterable[tuple[str, Path]], trace_id: str) -> LogLines:
    """Return the log lines of a trace.

    Args:
        files: Service and file.
        trace_id: 32 hexadecimal digits.
    """
    lines: list[LogLine] = []
    problems = []
    for service, file in files:
        try:
            found = await asyncio.to_thread(_lines_of, file, trace_id)
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror}); check `logs` in the profile")
        else:
            lines += [LogLine.of(service, line) for line in found[-MAX_LINES:]]
    return LogLines(sorted(lines, key=lambda line: line.timestamp)[-MAX_LINES:], problems)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:  # half a line, or none of a service
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _shown(value: object) -> str:
    return shorten(value if isinstance(value, str) else orjson.dumps(value).decode(), _MAX_VALUE_CHARS)
