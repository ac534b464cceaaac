"""The documentation names what exists: settings, exit codes, tests."""

from __future__ import annotations

import re
from pathlib import Path

from gatehouse.cli import _fail
from tools.document import rows

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_has_its_meaning() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for row in rows():
        assert row.meaning.endswith("."), row.name
        assert f"| `{row.name}` |" in page


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().partition("### Exit codes")[2].partition("\n## ")[0]
    codes = (_fail.OK, _fail.REFUSED, _fail.USAGE, _fail.UNREACHABLE, _fail.FAULT, _fail.INTERRUPTED)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(codes)


def test_every_threat_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", page)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
