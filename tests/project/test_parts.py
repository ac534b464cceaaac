"""What needs a service that can be removed says so, so that `make remove` finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from tools.parts import without_part

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("compose", "services", "tests", "tools")
CODE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"users"}))
def test_imports_of_a_service_are_in_sections_that_are_removed_with_it(name: str) -> None:
    own = (f"services/gatehouse/{name}/", f"tests/{name}/")
    found = []
    for path in CODE:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(own):
            continue
        rest = without_part(path.read_text(), name)
        if rest is not None and re.search(rf"^\s*(from|import) gatehouse\.{name}\b", rest, re.MULTILINE):
            found.append(f"{place}: put it between `# <part {name}>` and `# </part {name}>`")
    assert found == []


def test_sections_and_files_of_a_part_are_found() -> None:
    text = "a\n# <part admin>\nb\n# </part admin>\nc\n"
    assert without_part(text, "admin") == "a\nc\n"
    assert without_part(text, "public") == text
    assert without_part("# <part admin/>\n", "admin") is None
