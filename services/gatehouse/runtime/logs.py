"""Log lines: structlog renders them, `log_queue` writes them to standard output.

Lines of the standard library's `logging`, warnings and uncaught exceptions become lines of the same format.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from gatehouse.runtime.log_format import TextStream, add_fields, is_json, renderer
from gatehouse.runtime.log_queue import LogQueue
from gatehouse.settings import LogSettings

_logger = logging.getLogger(__name__)


@contextmanager
def open_log(settings: LogSettings) -> Iterator[tuple[FilteringBoundLogger, LogQueue]]:
    """Write all lines of this process to standard output, in one format, until the context ends.

    Args:
        settings: Level and format.

    Yields:
        The logger, and the queue behind it.
    """
    # Unbuffered, so that a thread that hangs holds no lock of sys.stdout when the process ends.
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stdout:
        # JSON is UTF-8 (RFC 8259); lines for people are in the encoding of their terminal.
        lines = LogQueue(stdout, "utf-8" if is_json(settings, stdout.isatty()) else sys.stdout.encoding)
        try:
            with capture_standard_logging(settings, lines), _log_uncaught_exceptions():
                yield make_logger(settings, lines), lines
        finally:
            lines.stop()


def make_logger(settings: LogSettings, stream: TextStream) -> FilteringBoundLogger:
    """Make the logger of a process.

    Args:
        settings: Level and format.
        stream: Where lines go.
    """
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),  # type: ignore[arg-type] # it uses these methods only
        processors=[structlog.processors.add_log_level, *add_fields(), renderer(settings, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
    )
    return logger.bind()  # type: ignore[no-any-return] # the class that `wrapper_class` names


@contextmanager
def capture_standard_logging(
    settings: LogSettings, stream: TextStream, repeats: RepeatFilter | None = None
) -> Iterator[None]:
    """Write the lines of `logging`, and warnings, to `stream` in the format of `make_logger`.

    Lines of libraries below WARNING are never written, whatever level the settings have: HTTP libraries log
    headers, which contain credentials, at lower levels.

    Args:
        settings: Level and format.
        stream: Where lines go.
        repeats: Limits lines that repeat; None for the defaults of RepeatFilter.
    """
    handler = stream if isinstance(stream, LogQueue) else logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder({"suppressed"}),
                *add_fields(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer(settings, stream),
            ],
        )
    )
    handler.addFilter(repeats or RepeatFilter())
    handler.addFilter(_remove_values)
    root, own = logging.getLogger(), logging.getLogger("gatehouse")
    before = root.level, own.level, logging.raiseExceptions
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, level))
    own.setLevel(level)
    # Otherwise a line that cannot be formatted is printed on standard error, with its arguments.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        root_level, own_level, logging.raiseExceptions = before
        root.setLevel(root_level)
        own.setLevel(own_level)


def _remove_values(record: logging.LogRecord) -> bool:
    """Remove what a library writes that may hold a secret."""
    if record.name == "asyncio":  # a task with its exception, from the second line on
        record.msg, record.args = record.getMessage().partition("\n")[0], None
    return True


@contextmanager
def _log_uncaught_exceptions() -> Iterator[None]:
    """Log exceptions that Python would print on standard error, with their text."""

    def log(error: Any) -> None:
        _logger.error("uncaught exception", exc_info=(error.exc_type, error.exc_value, error.exc_traceback))

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = log
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before


class RepeatFilter(logging.Filter):
    """Pass at most `limit` lines per place in the code and period; drop and count the others.

    The next line that passes has their number in the field `suppressed`.

    Args:
        limit: Number of lines.
        seconds: Length of the period.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self, limit: int = 5, seconds: float = 300.0, clock: Callable[[], float] = time.monotonic
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
