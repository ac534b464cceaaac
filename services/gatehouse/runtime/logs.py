"""Log lines: structlog renders them, a thread writes them to standard output.

Lines of the standard library's `logging`, which libraries use, become lines of the same format.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Protocol

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from gatehouse.settings import LogSettings, wants_color

QUEUED_LINES = 10_000
GATHER_SECONDS = 0.01
CLOSE_SECONDS = 2.0
_logger = logging.getLogger(__name__)


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


class LogWriter:
    """A text stream that never blocks: a thread writes the lines to `stream`.

    If the reader of standard output hangs, RPCs continue. When the queue is full, lines are dropped and
    counted. The thread collects lines for GATHER_SECONDS and writes them together, so that it interrupts the
    event loop at most 100 times a second.

    Args:
        stream: Unbuffered binary stream; the thread is its only writer.
        capacity: Number of lines that the queue holds.
    """

    def __init__(self, stream: BinaryIO, capacity: int = QUEUED_LINES) -> None:
        self.dropped = 0
        self._stream = stream
        self._capacity = capacity
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, text: str, /) -> None:
        """Queue a line, or drop it if the queue is full."""
        if self._closed or self._lines.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._lines.put(text)

    def flush(self) -> None:
        """Do nothing: the thread writes soon."""

    def isatty(self) -> bool:
        """Return whether lines go to a terminal."""
        return self._stream.isatty()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write the queued lines, for at most `seconds`."""
        self._closed = True
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        reported = 0
        open_ = True
        while open_:
            lines = [self._lines.get()]
            time.sleep(GATHER_SECONDS)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            open_ = None not in lines
            for chunk in _chunks([line.encode("utf-8", "backslashreplace") for line in lines if line]):
                self._write(chunk)
            if open_ and self.dropped > reported:
                _logger.warning("%d log lines were dropped", self.dropped - reported)
                reported = self.dropped

    def _write(self, data: bytes) -> None:
        try:
            while data:
                written = self._stream.write(data) or 0  # None: a non-blocking pipe is full
                if not written:
                    time.sleep(GATHER_SECONDS)
                data = data[written:]
        except (OSError, ValueError):  # the disk is full, or the pipe or the stream is closed
            self.dropped += data.count(b"\n")


def _chunks(lines: list[bytes]) -> Iterator[bytes]:
    """Join lines into chunks that a pipe takes in one piece (PIPE_BUF), as worker processes may share one."""
    chunk = b""
    for line in lines:
        if chunk and len(chunk) + len(line) > select.PIPE_BUF:
            yield chunk
            chunk = b""
        chunk += line
    if chunk:
        yield chunk


def make_logger(settings: LogSettings, stream: TextStream) -> FilteringBoundLogger:
    """Make the logger of a process.

    Args:
        settings: Level and format.
        stream: Where lines go.
    """
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),  # type: ignore[arg-type] # it uses these methods only
        processors=[structlog.processors.add_log_level, *_fields(), _renderer(settings, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
    )
    return logger.bind()  # type: ignore[no-any-return] # the class that `wrapper_class` names


@contextmanager
def capture_standard_logging(
    settings: LogSettings, stream: TextStream, repeats: RepeatFilter | None = None
) -> Iterator[None]:
    """Write the lines of `logging`, and warnings, to `stream` in the format of `make_logger`.

    Lines below WARNING are never written, whatever level the settings have: HTTP libraries log headers,
    which contain credentials, at lower levels.

    Args:
        settings: Level and format.
        stream: Where lines go.
        repeats: Limits lines that repeat; None for the defaults of RepeatFilter.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder({"suppressed"}),
                *_fields(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(settings, stream),
            ],
        )
    )
    handler.addFilter(repeats or RepeatFilter())
    root = logging.getLogger()
    before = root.level, logging.raiseExceptions
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[settings.level.upper()]))
    # Otherwise a line that cannot be formatted is printed on standard error, with its arguments.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        level, logging.raiseExceptions = before
        root.setLevel(level)


class RepeatFilter(logging.Filter):
    """Pass at most `limit` lines per place in the code and period; drop and count the others.

    The next line that passes has their number in the field `suppressed`.

    Args:
        limit: Number of lines.
        seconds: Length of the period.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self, limit: int = 5, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._periods: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        place, now = (record.pathname, record.lineno), self._clock()
        began, count = self._periods.get(place, (-math.inf, 0))
        if now - began >= self._seconds:
            if count > self._limit:
                record.suppressed = count - self._limit
            began, count = now, 0
        self._periods[place] = began, count + 1
        return count < self._limit


def _fields() -> list[Processor]:
    return [structlog.processors.MaybeTimeStamper(fmt="iso", utc=True), _add_trace_id, _replace_exception]


def _renderer(settings: LogSettings, stream: TextStream) -> Processor:
    terminal = stream.isatty()
    if settings.format == "console" or (settings.format == "auto" and terminal):
        return structlog.dev.ConsoleRenderer(colors=terminal and wants_color())
    return structlog.processors.JSONRenderer(_to_json)


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
