"""Log lines: their format, the writer that never blocks, and the lines of libraries."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import re
import select
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from gatehouse.runtime.log_queue import LogQueue
from gatehouse.runtime.logs import RepeatFilter, capture_standard_logging, make_logger
from gatehouse.settings import LogSettings

CANARY = "canary-0b9e"


def settings(level: str = "info", style: str = "json") -> LogSettings:
    return LogSettings.model_validate({"format": style, "level": level})


class Log(io.StringIO):
    """A stream that can be read line by line."""

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_line_is_json_with_level_time_and_fields(log: Log) -> None:
    make_logger(settings(), log).info("started", port=1)
    (line,) = log.parsed()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "started", "level": "info", "port": 1}


def test_lines_below_the_level_are_not_written(log: Log) -> None:
    logger = make_logger(settings("warning"), log)
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("event")
    assert [line["level"] for line in log.parsed()] == ["warning", "error"]


def test_line_carries_the_current_trace_unless_it_names_one(log: Log) -> None:
    logger = make_logger(settings(), log)
    with use_span(NonRecordingSpan(SpanContext(5, 6, is_remote=False))):
        logger.info("within")
        logger.info("other", trace_id="7")
    logger.info("without")
    assert [line.get("trace_id") for line in log.parsed()] == [f"{5:032x}", "7", None]


def test_given_timestamp_is_kept(log: Log) -> None:
    make_logger(settings(), log).info("rpc", timestamp="2026-01-02T03:04:05Z")
    assert log.parsed()[0]["timestamp"] == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("value", "written"),
    [("\ud800", "\ud800"), (1 << 70, 1 << 70), ({1: "a"}, {"1": "a"}), ("ü", "ü"), (object, repr(object))],
)
def test_values_that_orjson_refuses_are_written_too(log: Log, value: object, written: object) -> None:
    make_logger(settings(), log).info("event", value=value)
    assert log.parsed()[0]["value"] == written


def fail() -> None:
    raise ValueError(CANARY)


def test_exception_is_logged_by_type_and_place_without_its_text(log: Log) -> None:
    logger = make_logger(settings(), log)
    with capture_standard_logging(settings(), log):
        try:
            fail()
        except ValueError as error:
            logger.exception("own")
            logger.warning("given", exc_info=error)
            logging.getLogger("library").exception("theirs")
    lines = log.parsed()
    assert [line["event"] for line in lines] == ["own", "given", "theirs"]
    assert {line["error_type"] for line in lines} == {"builtins.ValueError"}
    assert all(re.fullmatch(rf"{re.escape(__name__)}\.fail:\d+", line["error_at"]) for line in lines)
    assert CANARY not in log.getvalue()


def test_exc_info_without_an_exception_is_left_out(log: Log) -> None:
    make_logger(settings(), log).error("event", exc_info=True)
    assert set(log.parsed()[0]) == {"event", "level", "timestamp"}


@contextlib.contextmanager
def terminal() -> Iterator[tuple[Any, Callable[[], str]]]:
    """A terminal, and a function that returns what was written to it."""
    reader, writer = os.openpty()
    with os.fdopen(writer, "w", buffering=1) as stream, os.fdopen(reader, "rb", buffering=0) as screen:
        yield stream, lambda: screen.read(4096).decode()


@pytest.mark.parametrize(
    ("environment", "colors"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
@pytest.mark.parametrize("style", ["auto", "console"])
def test_terminal_gets_colors_unless_it_or_the_user_declines(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colors: bool, style: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with terminal() as (stream, shown):
        make_logger(settings(style=style), stream).info("started", port=1)
        text = shown()
    assert "started" in text
    assert ("\x1b[" in text) == colors


def test_console_format_has_no_colors_where_it_is_no_terminal(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    make_logger(settings(style="console"), log).info("started", port=1)
    assert re.fullmatch(r"[\d-]+T[\d:.]+Z \[info +\] started +port=1\n", log.getvalue())


def test_auto_format_is_json_where_it_is_no_terminal(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_logger(settings(style="auto"), log).info("started")
    assert log.parsed()


def test_console_format_has_colors_in_a_pipe_if_they_are_forced(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_logger(settings(style="console"), log).info("started", port=1)
    assert "\x1b[" in log.getvalue()


def test_queue_escapes_what_the_encoding_lacks() -> None:
    stream = Chunks()
    lines = LogQueue(stream, "latin-1")
    lines.write("zürich €\n")
    lines.stop()
    assert b"".join(stream.chunks) == b"z\xfcrich \\u20ac\n"


def test_message_of_asyncio_is_logged_without_the_text_of_the_exception(log: Log) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(asyncio.to_thread(fail))
        await asyncio.wait([task])
        del task
        gc.collect()

    with capture_standard_logging(settings(), log):
        asyncio.run(run())
    (line,) = log.parsed()
    assert (line["event"], line["error_type"]) == (
        "Task exception was never retrieved",
        "builtins.ValueError",
    )
    assert CANARY not in log.getvalue()


class Chunks(io.BytesIO):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[bytes] = []

    def write(self, data: Any, /) -> int:
        self.chunks.append(bytes(data))
        return len(data)


@pytest.mark.parametrize("size", [1, 100, 1500, 4096, 5000])
def test_queue_writes_lines_in_order_and_in_chunks_that_a_pipe_takes_in_one_piece(size: int) -> None:
    stream = Chunks()
    writer = LogQueue(stream)
    lines = [chr(65 + number) * (size - 1) + "\n" for number in range(20)]
    for line in lines:
        writer.write(line)
    writer.stop()
    assert b"".join(stream.chunks).decode() == "".join(lines)
    assert all(len(chunk) <= select.PIPE_BUF or chunk.count(b"\n") == 1 for chunk in stream.chunks)
    assert all(chunk.endswith(b"\n") for chunk in stream.chunks)
    assert writer.dropped == 0


def test_queue_writes_without_being_closed() -> None:
    reader, stream = pipe()
    with reader, stream:
        LogQueue(stream).write("a\n")
        assert reader.readline() == b"a\n"


def pipe() -> tuple[BinaryIO, BinaryIO]:
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0)


def test_queue_never_blocks_and_counts_the_lines_that_it_drops() -> None:
    reader, stream = pipe()
    log = Log()
    with reader, stream, capture_standard_logging(settings(), log):
        writer = LogQueue(stream, capacity=100)
        line = "x" * 999 + "\n"
        for _ in range(1000):  # a pipe takes 64 KiB
            writer.write(line)
        dropped = writer.dropped
        assert dropped > 500
        read = [reader.readline() for _ in range(1000 - dropped)]
        assert set(read) == {line.encode()}
        wait_for(log.getvalue)
    assert log.parsed()[0]["event"] == f"{dropped} log lines were dropped"


def test_close_does_not_wait_for_a_reader_that_hangs() -> None:
    reader, stream = pipe()
    with reader, stream:
        writer = LogQueue(stream)
        for _ in range(1000):
            writer.write("x" * 999 + "\n")
        began = time.monotonic()
        writer.stop(seconds=0.1)
        assert time.monotonic() - began < 5
        writer.write("late\n")
        assert writer.dropped == 1
        ended = threading.Thread(target=writer.stop)
        ended.start()
        assert reader.read(1_000_000) == (b"x" * 999 + b"\n") * 1000
        ended.join()


def test_queue_waits_for_room_in_a_non_blocking_pipe() -> None:
    reader, stream = pipe()
    with reader, stream:
        os.set_blocking(stream.fileno(), False)
        writer = LogQueue(stream)
        for _ in range(200):
            writer.write("x" * 999 + "\n")
        assert reader.read(200_000) == (b"x" * 999 + b"\n") * 200
        assert writer.dropped == 0
        writer.stop()


def test_lines_for_a_closed_pipe_are_counted_and_the_writer_continues() -> None:
    reader, stream = pipe()
    with stream:
        reader.close()
        writer = LogQueue(stream)
        writer.write("a\n")
        wait_for(lambda: writer.dropped == 1)
        writer.write("b\n")
        writer.stop()
        assert writer.dropped == 2


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_of_libraries_have_the_format_of_own_lines(log: Log) -> None:
    with capture_standard_logging(settings(), log):
        logging.getLogger("library").warning("retrying in %d s", 5)
        logging.getLogger("library").error("gave\nup", stack_info=True)
    first, second = log.parsed()
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "retrying in 5 s", "level": "warning", "logger": "library"}
    assert (second["event"], second["level"]) == ("gave\nup", "error")
    assert set(second) == {"event", "level", "logger", "timestamp"}


def test_warnings_become_lines(log: Log) -> None:
    with capture_standard_logging(settings(), log), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = log.parsed()
    assert "DeprecationWarning: old" in line["event"]
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_libraries_never_log_below_warning(log: Log, level: str) -> None:
    """They log headers, and so credentials, there."""
    with capture_standard_logging(settings(level), log):
        for name in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("library"), name)("event")
    expected = ["error"] if level == "error" else ["warning", "error"]
    assert [line["level"] for line in log.parsed()] == expected


def test_a_library_line_that_cannot_be_formatted_is_not_printed_with_its_arguments(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_standard_logging(settings(), log):
        logging.getLogger("library").warning("%d", CANARY)
        logging.getLogger("library").warning("fine")
    assert [line["event"] for line in log.parsed()] == ["fine"]
    assert CANARY not in "".join(capfd.readouterr())


def test_standard_logging_is_as_before_afterwards(log: Log) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.raiseExceptions, warnings.showwarning
    with capture_standard_logging(settings(), log):
        pass
    assert (root.level, list(root.handlers), logging.raiseExceptions, warnings.showwarning) == before


def test_repeated_lines_of_one_place_are_limited_and_counted(log: Log) -> None:
    now = 1000.0
    logger = logging.Logger("library")  # noqa: LOG001 - no other test shall see its handler
    handler = logging.StreamHandler(log)
    handler.addFilter(RepeatFilter(limit=2, seconds=60, clock=lambda: now))
    handler.setFormatter(logging.Formatter("%(message)s %(suppressed)s", defaults={"suppressed": 0}))
    logger.addHandler(handler)

    def retry() -> None:
        logger.warning("retry")

    for _ in range(5):
        retry()
    logger.warning("other place")
    now += 59
    retry()
    now += 1
    for _ in range(3):
        retry()
    now += 60
    logger.warning("other place")
    assert log.getvalue().splitlines() == [
        "retry 0",
        "retry 0",
        "other place 0",
        "retry 4",
        "retry 0",
        "other place 0",
    ]


def test_line_says_how_many_were_suppressed_before_it(log: Log) -> None:
    now = 1000.0
    with capture_standard_logging(settings(), log, RepeatFilter(limit=1, clock=lambda: now)):
        for _ in range(3):
            logging.getLogger("library").warning("retry")
            now += 150
    assert [line.get("suppressed") for line in log.parsed()] == [None, 1]
