"""How a tour and a trace look: on a terminal, without one, and as a picture."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tracing.show import WIDTH, make_console, save_svg, trace_view
from gatehouse_testbed.tracing.spans import Span, tree

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


def test_a_trace_says_what_ran_when_for_how_long_and_how_it_ended() -> None:
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


def test_without_a_terminal_there_is_no_colour() -> None:
    assert "\x1b" not in text_of(SPANS)


def test_a_picture_needs_nothing_from_the_net(tmp_path: Path) -> None:
    console = make_console(StringIO(), record=True)
    console.print(trace_view(tree(SPANS)))
    save_svg(console, tmp_path / "trace.svg", "a title")
    written = (tmp_path / "trace.svg").read_text()
    assert "GetStats" in written
    assert "a&#160;title" in written or "a title" in written
    assert written.replace("http://www.w3.org/2000/svg", "").count("http") == 0


def test_a_picture_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    console = make_console(StringIO(), record=True)
    console.print("x")
    with pytest.raises(DemoError, match="cannot be written"):
        save_svg(console, tmp_path / "missing" / "trace.svg", "t")


def report_of(*faults: str) -> tuple[Report, str]:
    out = StringIO()
    report = Report(make_console(out))
    report.step("A step")
    with report.progress("calls", 2) as told:
        told(2)
    report.check("it was so, " * 20, good=True)
    for fault in faults:
        report.check(fault, good=False)
    report.note("a note")
    report.summary(1.5)
    return report, out.getvalue()


def test_a_report_counts_its_checks() -> None:
    report, text = report_of()
    assert report.faults == []
    assert "1  A step" in text
    assert "All 1 checks came out as promised, in 1.5 s." in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_a_report_repeats_at_its_end_what_was_otherwise() -> None:
    report, text = report_of("the cat barked")
    assert report.faults == ["the cat barked"]
    assert "1 of 2 checks came out otherwise than promised:\n    the cat barked\n" in text
