"""The documentation names what exists: settings, exit codes, tests."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from gatehouse.cli._errors import MEANINGS
from tools.document import rows

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_has_its_meaning() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for row in rows():
        assert row.meaning.endswith("."), row.name
        assert f"| `{row.name}` |" in page


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for code, meaning in MEANINGS.items():
        assert f"| {code} | {meaning.replace('GATEHOUSE_TRACEBACK=1', '`GATEHOUSE_TRACEBACK=1`')} |" in page


def test_every_threat_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", page)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_code_of_the_examples_of_the_test_bed_is_in_their_files() -> None:
    page = ROOT / "docs" / "testing-with-gatehouse.md"
    quoted = re.findall(
        r"\]\((\.\./examples/testbed/[^)]+\.\w+)\):\n\n```\w+\n(.*?)^```",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert {Path(file).parts[3] for file, _ in quoted} == {
        folder.name for folder in (ROOT / "examples/testbed").iterdir()
    }
    for file, code in quoted:
        content = (page.parent / file).read_text()
        # A method is quoted without the indentation of its class.
        indented = (textwrap.indent(code, " " * width) for width in (0, 2, 4))
        assert any(one in content for one in indented), f"{file}\n{code}"


def test_no_page_installs_a_package_of_this_name_from_an_index() -> None:
    """There, it is another project."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("README.md")]
    # Where it is installed already, pip adds what the extra needs.
    commands = [
        line for page in pages for line in page.read_text().splitlines() if line.startswith("pip install ")
    ]
    assert commands
    assert [line for line in commands if re.search(r"""[ '"]gatehouse\b""", line)] == []
