"""Output: on a terminal, without one, and as a picture."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest

from gatehouse.client.traces.spans import Span, tree
from gatehouse_testbed.console import WIDTH, make_console, save_picture
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tracing.view import trace_view

SPANS = [
    Span("1", "", "gatehouse-admin", "gatehouse.admin.v1.AdminService/GetStats", "server", 1_000, 8_000),
    Span(
        "2",
        "1",
        "gatehouse-admin",
        "gatehouse.users.v1.UserService/CountUsers",
        "client",
        3_000,
        4_000,
        attributes={"rpc.response.status_code": "OK"},
    ),
    Span(
        "3",
        "2",
        "gatehouse-users",
        "SELECT",
        "client",
        5_000,
        1_000,
        failed=True,
        attributes={"error.type": "Timeout", "db.query.text": "SELECT 1"},
    ),
    Span("4", "1", "gatehouse-admin", "SELECT", "client", 8_000, 10, attributes={"db.query.text": "x " * 99}),
]


def text_of(spans: list[Span]) -> str:
    out = StringIO()
    make_console(out).print(trace_view(tree(spans)))
    return out.getvalue()


def test_trace_shows_start_duration_and_status_of_each_span() -> None:
    lines = text_of(SPANS).splitlines()
    assert lines[0].split() == ["■", "gatehouse-admin", "■", "gatehouse-users", "4", "spans,", "8.0", "ms"]
    outer, inner, failed, last = lines[-4:]
    assert outer.startswith("AdminService/GetStats ")
    assert outer.count("█") == 26
    assert inner.startswith("├─ UserService/CountUsers (client)")
    assert "4.0 OK" in inner
    assert failed.startswith("│  └─ SELECT")
    assert failed.rstrip().endswith("Timeout")
    assert last.rstrip().endswith("…")
    assert all(len(line) <= WIDTH for line in lines)


def test_output_without_a_terminal_has_no_color() -> None:
    assert "\x1b" not in text_of(SPANS)


def test_picture_downloads_nothing(tmp_path: Path) -> None:
    save_picture(trace_view(tree(SPANS)), tmp_path / "trace.svg", "a title")
    written = (tmp_path / "trace.svg").read_text()
    assert "GetStats" in written
    assert "a&#160;title" in written or "a title" in written
    assert not re.search(r"url\([\"']?http|@import|href", written)


def test_picture_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="cannot be written"):
        save_picture("x", tmp_path / "missing" / "trace.svg", "t")


def report_of(*failures: str) -> tuple[Report, str]:
    out = StringIO()
    report = Report(make_console(out))
    report.step("A step")
    with report.progress("calls", 2) as on_progress:
        on_progress(2)
    report.check("it is so, " * 20, ok=True)
    for failure in failures:
        report.check(failure, ok=False)
    report.note("a note")
    report.summary(1.5)
    return report, out.getvalue()


def test_report_counts_its_checks() -> None:
    report, text = report_of()
    assert report.failures == []
    assert "1  A step" in text
    assert "All 1 checks passed in 1.5 s." in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_report_repeats_the_failed_checks_at_its_end() -> None:
    report, text = report_of("the cat barked")
    assert report.failures == ["the cat barked"]
    assert "1 of 2 checks failed:\n    the cat barked\n" in text
