"""The site has every page of docs/, and every file that a page links to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.build_docs import MERMAID, ROOT, fetch_mermaid, nav, stage


def test_navigation_lists_every_page_of_the_documentation() -> None:
    listed = nav((ROOT / "mkdocs.yml").read_text())
    assert len(listed) == len(set(listed))
    assert {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")} <= set(listed)


def test_navigation_lists_only_files_and_packages_that_exist() -> None:
    missing = []
    for name in nav((ROOT / "mkdocs.yml").read_text()):
        if name.startswith("reference/"):
            folder = ROOT / "services" / Path(name).stem.replace(".", "/")
            exists = (folder / "__init__.py").is_file()
        else:
            exists = (ROOT / name).is_file()
        if not exists:
            missing.append(name)
    assert missing == []


def test_linked_files_are_copied_and_reference_pages_are_written(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text("[page](docs/page.md#heading) [folder](docs)")
    (root / "docs" / "page.md").write_text(
        "![picture](picture.svg) [back](../README.md) [web](https://example.com)"
    )
    (root / "docs" / "picture.svg").write_text("<svg/>")
    (root / "docs" / "other.md").write_text("not linked")
    target.mkdir()
    (target / "old.md").write_text("from an earlier build")

    stage(["README.md", "reference/gatehouse.rpc.md"], root, target)

    written = {
        str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()
    }
    assert written == {
        "README.md": (root / "README.md").read_text(),
        "docs/page.md": (root / "docs" / "page.md").read_text(),
        "docs/picture.svg": "<svg/>",
        "reference/gatehouse.rpc.md": "::: gatehouse.rpc\n",
    }


def test_mermaid_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    script = tmp_path / f"mermaid-{MERMAID}.min.js"
    script.write_bytes(b"something else")
    with pytest.raises(SystemExit, match="not the file whose digest is pinned"):
        fetch_mermaid(tmp_path)
