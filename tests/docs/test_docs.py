"""The documentation names what exists: settings, exit codes, tests."""

from __future__ import annotations

import re
from pathlib import Path

from gatehouse.cli import _fail
from gatehouse.settings import described

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_has_its_meaning() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for name, _, meaning in described():
        assert meaning.endswith("."), name
        assert f"| `{name}` |" in page


def test_every_exit_code_is_told() -> None:
    page = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    codes = (_fail.OK, _fail.REFUSED, _fail.USAGE, _fail.UNREACHABLE, _fail.FAULT, _fail.INTERRUPTED)
    told = page.partition("Exit codes of every command:")[2].partition("An error is one line")[0]
    assert [int(code) for code in re.findall(r"(?:^|; ) ?(\d+) ", told)] == list(codes)


def test_every_threat_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", page)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
