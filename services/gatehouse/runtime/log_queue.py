"""Standard output behind a bounded queue (`logging.handlers`), so that a reader that hangs blocks no call."""

from __future__ import annotations

import logging
import queue
import select
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from typing import BinaryIO

QUEUED_LINES = 10_000
CLOSE_SECONDS = 2.0
_FULL_PIPE_SECONDS = 0.01
_logger = logging.getLogger(__name__)


class LogQueue(QueueHandler):
    """A handler of `logging`, and a text stream, whose lines a thread writes to `stream`.

    When the queue is full, lines are dropped and counted.

    Args:
        stream: Unbuffered binary stream; the thread is its only writer.
        encoding: Encoding of the lines; characters that it lacks are escaped.
        capacity: Number of lines that the queue holds.
    """

    def __init__(self, stream: BinaryIO, encoding: str = "utf-8", capacity: int = QUEUED_LINES) -> None:
        self.dropped = 0
        self._lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        super().__init__(self._lines)
        self._stream = stream
        self._capacity = capacity
        self._stopped = False
        self._writer = _Writer(stream, encoding, self)
        self._listener = QueueListener(self._lines, self._writer)
        self._listener.start()
        # QueueListener.stop waits for a reader that hangs without limit.
        self._stopping = threading.Thread(target=self._finish, daemon=True)

    def write(self, line: str, /) -> None:
        """Queue a line that ends in a newline, or drop it if the queue is full."""
        self.enqueue(logging.LogRecord("gatehouse", logging.INFO, "", 0, line, None, None))

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a formatted record, or drop it if the queue is full."""
        if self._stopped or self._lines.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._lines.put(record)

    def is_empty(self) -> bool:
        """Return whether no line is waiting."""
        return self._lines.empty()

    def isatty(self) -> bool:
        """Return whether lines go to a terminal."""
        return self._stream.isatty()

    def stop(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write the queued lines, for at most `seconds`."""
        if not self._stopped:
            self._stopped = True
            self._stopping.start()
        self._stopping.join(seconds)

    def _finish(self) -> None:
        self._listener.stop()
        self._writer.flush()


class _Writer(logging.Handler):
    """Write lines, those that wait in the queue together, so that the event loop is interrupted seldom.

    What it writes at once fits into a pipe in one piece (PIPE_BUF), as worker processes may share one.
    """

    def __init__(self, stream: BinaryIO, encoding: str, lines: LogQueue) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = encoding
        self._lines = lines
        self._pending = b""
        self._reported = 0

    def createLock(self) -> None:  # noqa: N802 - a method of logging.Handler
        """Use no lock: one thread writes, and the end of the process would wait for the lock if it hangs."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record without the lock, which Python 3.13 and later would require."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        line = record.getMessage().removesuffix("\n").encode(self._encoding, "backslashreplace") + b"\n"
        if len(self._pending) + len(line) > select.PIPE_BUF:
            self.flush()
        self._pending += line
        if self._lines.is_empty():
            self.flush()
            dropped = self._lines.dropped - self._reported
            self._reported += dropped
            if dropped:
                _logger.warning("%d log lines were dropped", dropped)

    def flush(self) -> None:
        """Write the pending lines."""
        data, self._pending = self._pending, b""
        try:
            while data:
                written = self._stream.write(data) or 0  # None: a non-blocking pipe is full
                if not written:
                    time.sleep(_FULL_PIPE_SECONDS)
                data = data[written:]
        except (OSError, ValueError):  # the disk is full, or the pipe or the stream is closed
            self._lines.dropped += data.count(b"\n")
