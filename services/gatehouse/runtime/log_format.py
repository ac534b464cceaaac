"""The format of log lines: JSON, or colored text on a terminal; exceptions appear without their text."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from gatehouse.settings import LogSettings, wants_color


class TextStream(Protocol):
    """The methods of a stream that structlog and `logging` use."""

    def write(self, text: str, /) -> object:
        """Write `text`, which ends in a newline."""
        ...

    def flush(self) -> object:
        """Write what is buffered."""
        ...

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        ...


def add_fields() -> list[Processor]:
    """Return the processors that complete a line: time, trace, and what an exception was."""
    return [structlog.processors.MaybeTimeStamper(fmt="iso", utc=True), _add_trace_id, _replace_exception]


def is_json(settings: LogSettings, terminal: bool) -> bool:  # noqa: FBT001 - the answer of isatty
    """Return whether lines are JSON."""
    return settings.format == "json" or (settings.format == "auto" and not terminal)


def renderer(settings: LogSettings, stream: TextStream) -> Processor:
    """Return the last processor."""
    if is_json(settings, stream.isatty()):
        return structlog.processors.JSONRenderer(_to_json)
    return structlog.dev.ConsoleRenderer(colors=wants_color(terminal=stream.isatty()))


def _to_json(event: EventDict, default: Callable[[object], object]) -> str:
    try:
        return orjson.dumps(event, default=default).decode()
    except TypeError:  # what orjson refuses: half a surrogate pair, a number of more than 64 bits, ...
        return json.dumps(event, default=default, skipkeys=True)


def _add_trace_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if "trace_id" not in event:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


def _replace_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and place: its text may hold a secret."""
    event.pop("stack_info", None)
    exc_info = event.pop("exc_info", None)
    if exc_info:
        error = exc_info if isinstance(exc_info, BaseException) else None
        if error is None:
            error = exc_info[1] if isinstance(exc_info, tuple) else sys.exception()
        if error is not None:
            event["error_type"] = f"{type(error).__module__}.{type(error).__qualname__}"
            event["error_at"] = _place(error.__traceback__)
    return event


def _place(trace_back: TracebackType | None) -> str:
    place = "?"
    for frame, line in traceback.walk_tb(trace_back):
        place = f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{line}"
    return place
