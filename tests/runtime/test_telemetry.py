"""How lines of the log are made and written."""

from __future__ import annotations

import asyncio
import io
import json
import re
import select
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from gatehouse.runtime.telemetry import Lines, make_logger
from gatehouse.settings import LogSettings


class Written(io.BytesIO):
    """Keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> int:
        self.writes.append(bytes(data))
        return len(data)


def logger(lines: Lines, level: str = "info") -> Any:
    return make_logger(LogSettings.model_validate({"format": "json", "level": level}), lines=lines)


def parsed(written: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(written.writes).splitlines()]


def test_a_line_is_json_with_its_level_time_and_fields() -> None:
    written = Written()
    logger(Lines(written)).info("started", port=1)
    (line,) = parsed(written)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "started", "level": "info", "port": 1}


def test_lines_below_the_level_are_not_written() -> None:
    written = Written()
    log = logger(Lines(written), "warning")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("said")
    assert [line["level"] for line in parsed(written)] == ["warning", "error"]


def test_what_is_bound_is_in_each_line_and_yields_to_what_is_said() -> None:
    written = Written()
    log = logger(Lines(written)).bind(a=1, b=2)
    log.info("said", b=3)
    (line,) = parsed(written)
    assert (line["a"], line["b"]) == (1, 3)


def test_a_line_carries_the_trace_that_it_is_written_in() -> None:
    written = Written()
    log = logger(Lines(written))
    with use_span(NonRecordingSpan(SpanContext(5, 6, is_remote=False))):
        log.info("within")
        log.info("of another", trace_id="7")
    log.info("without")
    assert [line.get("trace_id") for line in parsed(written)] == [f"{5:032x}", "7", None]


def test_the_time_can_be_given() -> None:
    written = Written()
    logger(Lines(written)).info("rpc", timestamp="then")
    assert parsed(written)[0]["timestamp"] == "then"


def test_methods_of_a_usual_logger_work_too() -> None:
    written = Written()
    log = logger(Lines(written))
    log.critical("over")
    log.log(30, "said")
    assert [(line["event"], line["level"]) for line in parsed(written)] == [
        ("over", "critical"),
        ("said", "warning"),
    ]


async def test_lines_of_one_turn_of_the_loop_are_written_together() -> None:
    written = Written()
    lines = Lines(written, together=True)
    lines.msg(b"a\n")
    lines.msg(b"b\n")
    assert written.writes == []
    await asyncio.sleep(0)
    assert written.writes == [b"a\nb\n"]
    lines.msg(b"c\n")
    await asyncio.sleep(0)
    assert written.writes[1:] == [b"c\n"]


def test_without_a_loop_there_is_nothing_to_wait_for() -> None:
    written = Written()
    Lines(written, together=True).msg(b"a\n")
    assert written.writes == [b"a\n"]


async def test_lines_that_wait_can_be_written_now_and_nothing_is_written_for_none() -> None:
    written = Written()
    lines = Lines(written, together=True)
    lines.msg(b"a\n")
    lines.flush()
    lines.flush()
    await asyncio.sleep(0)
    assert written.writes == [b"a\n"]


@pytest.mark.parametrize("size", [1, 100, 1500, 4096, 5000])
async def test_no_write_of_several_lines_is_longer_than_a_pipe_takes_unbroken(size: int) -> None:
    """Else the lines of processes that share a pipe would be mixed (PIPE_BUF, pipe(7))."""
    written = Written()
    lines = Lines(written, together=True)
    made = [bytes([65 + number]) * (size - 1) + b"\n" for number in range(20)]
    for line in made:
        lines.msg(line)
    lines.flush()
    assert b"".join(written.writes) == b"".join(made)
    assert all(len(data) <= select.PIPE_BUF or data.count(b"\n") == 1 for data in written.writes)
    assert all(data.endswith(b"\n") for data in written.writes)


def console() -> tuple[Any, io.StringIO]:
    out = io.StringIO()
    return make_logger(LogSettings.model_validate({"format": "console"}), out), out


def test_a_console_shows_the_time_that_was_given() -> None:
    log, out = console()
    log.info("rpc", timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert "2026-01-02T03:04:05Z" in out.getvalue()


def test_a_console_shows_the_time_of_a_line_that_has_none() -> None:
    log, out = console()
    before = datetime.now(UTC)
    log.info("said")
    (shown,) = re.findall(r"\d{4}-\d\d-\d\dT[\d:.]+Z", out.getvalue())
    assert before <= datetime.fromisoformat(shown) <= datetime.now(UTC)


def test_arguments_are_put_into_the_text_as_in_a_usual_logger() -> None:
    written = Written()
    logger(Lines(written)).info("said %s to %s", "a", "b")
    assert parsed(written)[0]["event"] == "said a to b"


class Full(Written):
    """Has no room, for a while."""

    full = True

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError(28, "no space left")
        return super().write(data)


async def test_lines_that_cannot_be_written_are_lost_and_nothing_else_is() -> None:
    written = Full()
    lines = Lines(written, together=True)
    lines.msg(b"lost\n")
    await asyncio.sleep(0)
    written.full = False
    lines.msg(b"a\n")
    await asyncio.sleep(0)
    assert written.writes == [b"a\n"]


def test_a_line_whose_loop_is_gone_is_written_with_the_next_flush() -> None:
    written = Written()
    lines = Lines(written, together=True)
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        lines.msg(b"a\n")
        loop.stop()

    task = loop.create_task(leave())
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(asyncio.Event().wait())
    assert task.done()
    loop.close()
    lines.settle()
    lines.msg(b"b\n")
    assert b"".join(written.writes) == b"a\nb\n"
