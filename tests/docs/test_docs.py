"""The documentation names what there is: dependencies, links, tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gatehouse.app.services import settings_model
from gatehouse.cli._errors import MEANINGS
from gatehouse.settings import describe_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["demo"],
        *project["dependency-groups"]["dev"],
        *project["dependency-groups"]["sbom"],
    ]
    wanted = {re.split(r"[;<>=!~ ]", name)[0] for name in named}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)) == wanted


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for name, _, meaning in describe_settings(settings_model()):
        assert meaning.endswith("."), name
        assert f"| `{name}` |" in page


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for code, meaning in MEANINGS.items():
        assert f"| {code} | {meaning.replace('GATEHOUSE_TRACEBACK=1', '`GATEHOUSE_TRACEBACK=1`')} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_threat_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", page)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
