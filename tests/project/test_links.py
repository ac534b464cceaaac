"""tools/check_links.py finds broken links and accepts good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_links import ROOT, pages, problems

OTHER = """# Other page
## The `call()` rule
## A & B
## Same
## Same
### [1.0] - 2026-01-01
<a id="by-hand"></a>
"""


def found(root: Path, text: str) -> list[str]:
    (root / "docs").mkdir()
    (root / "docs" / "other.md").write_text(OTHER)
    (root / "LICENSE").write_text("text")
    page = root / "page.md"
    page.write_text(text)
    return list(problems(page, root))


@pytest.mark.parametrize(
    "text",
    [
        "[x](docs/other.md)",
        "[x](docs)",
        '[x](LICENSE "with a title")',
        "[`code`](docs/other.md#the-call-rule)",
        "[x](docs/other.md#a--b)",
        "[x](docs/other.md#same) [x](docs/other.md#same-1)",
        "[x](docs/other.md#10---2026-01-01)",
        "[x](docs/other.md#by-hand)",
        "# Here\n[x](#here)",
        "[x](https://example.com/nowhere.md) <mailto:nobody@example.com>",
        "```\n[x](missing.md)\n```",
        "~~~~text\n```\n[x](missing.md)\n~~~~",
        "`[x](missing.md)`",
    ],
)
def test_good_link_is_accepted(text: str, tmp_path: Path) -> None:
    assert found(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n\n[x](missing.md)", "page.md:3: missing.md: no such file"),
        ("![x](missing.png)", "page.md:1: missing.png: no such file"),
        ('<img src="missing.svg">', "page.md:1: missing.svg: no such file"),
        ("[x][1]\n\n[1]: missing.md", "page.md:3: missing.md: no such file"),
        ("```\ncode\n```\n[x](missing.md)", "page.md:4: missing.md: no such file"),
        ("[x](docs/other.md#missing)", "page.md:1: docs/other.md#missing: no such heading"),
        ("[x](docs/other.md#same-2)", "page.md:1: docs/other.md#same-2: no such heading"),
        ("```\n# Here\n```\n[x](#here)", "page.md:4: #here: no such heading"),
        ("[x](/docs/other.md)", "page.md:1: /docs/other.md: leaves the repository; use a relative path"),
        ("[x](../other.md)", "page.md:1: ../other.md: leaves the repository; use a relative path"),
    ],
)
def test_broken_link_is_reported_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    assert found(tmp_path, text) == [problem]


def test_pages_of_the_repository_are_checked_and_what_git_ignores_is_not() -> None:
    checked = {str(path.relative_to(ROOT)) for path in pages()}
    assert {"README.md", "docs/security.md"} <= checked
    assert not any(name.startswith((".venv/", "build/", "site/")) for name in checked)
