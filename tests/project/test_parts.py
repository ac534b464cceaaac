"""What needs a part that can be removed says so, so that `make remove` finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from tools.parts import KEPT, PARTS, problem_of_part, remove_part, without_part
from tools.remove import importers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted({*SERVICES, *PARTS} - {"users"}))
def test_imports_of_a_part_are_in_sections_that_are_removed_with_it(name: str) -> None:
    found = importers(ROOT, name)
    assert found == [], f"put the imports between `# <part {name}>` and `# </part {name}>`"


@pytest.mark.parametrize("name", PARTS)
def test_files_and_texts_of_a_part_exist(name: str) -> None:
    part = PARTS[name]
    assert not part.paths or any((ROOT / path).exists() for path in part.paths)
    texts = [(ROOT / path, old) for path, old, _ in part.changes]
    assert [old for path, old in texts if path.exists() and old not in path.read_text()] == []


def test_what_cannot_be_removed_is_refused_with_the_reason() -> None:
    needed = {name for name, part in PARTS.items() if set(part.needed_by) & set(SERVICES)}
    assert {name for name in PARTS if problem_of_part(name, [name], SERVICES)} == needed
    for name in needed:
        assert problem_of_part(name, [name], SERVICES).endswith(" needs it; leave that out, too")
        assert problem_of_part(name, [name, *PARTS[name].needed_by], SERVICES) == ""
    assert problem_of_part("nothing", ["nothing"], SERVICES).startswith("unknown; use some of ")
    for name, reason in KEPT.items():
        assert problem_of_part(name, [name], SERVICES) == f"cannot be left out, because {reason}"


def test_sections_and_files_of_a_part_are_found() -> None:
    text = "a\n# <part example>\nb\n# </part example>\nc\n"
    assert without_part(text, "example") == "a\nc\n"
    assert without_part(text, "other") == text
    assert without_part("# <part example/>\n", "example") is None
    paragraphs = "a\n\n<!-- <part example> -->\nb\n<!-- </part example> -->\n\nc\n"
    assert without_part(paragraphs, "example") == "a\n\nc\n"


def test_pages_lose_rows_items_and_links_about_a_part(tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "See [the gone](gone.md), and this ([gone.md](gone.md)).\n"
        "| [gone](gone.md) |\n| Example |\n| stays |\n- [gone](gone.md),\n  and more\n- stays\n"
        "```mermaid\nexample --> users\nother --> users\n```\n"
    )
    remove_part(tmp_path, "example", ["Example"], is_service=True)
    assert page.read_text() == (
        "See the gone, and this.\n| stays |\n- stays\n```mermaid\nother --> users\n```\n"
    )
