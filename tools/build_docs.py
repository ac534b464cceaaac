"""Build the documentation site in site/; `make docs` runs it in the environment of requirements/docs.txt."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tools.check_links import links

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
# The release that Zensical would load from a CDN, and the digest of the one file that is used.
MERMAID = "12.3.0"
MERMAID_SHA256 = "336df803d87a38b70a01e736e666c8f7601d2ce42f5e47c8fafe5d721074b9a3"


def nav(config: str) -> list[str]:
    """Return the pages that the navigation of a mkdocs.yml lists."""
    return re.findall(r"^ +- .*?([\w./-]+\.md)$", config, re.MULTILINE)


def stage(names: list[str], root: Path, target: Path) -> None:
    """Collect the pages of a site in one folder, under their paths in the repository.

    A page `reference/PACKAGE.md` is written here: mkdocstrings fills it from the docstrings of that package.
    Files that a page links to are copied too, so that every relative link works in the site.

    Args:
        names: Paths of pages, relative to `root`.
        root: The repository.
        target: The folder to fill; its old content is removed.
    """
    shutil.rmtree(target, ignore_errors=True)
    waiting, done = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        page, copy = root / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("reference/"):
            copy.write_text(f"::: {page.stem}\n")
            continue
        shutil.copyfile(page, copy)
        if page.suffix == ".md":
            linked = (
                (page.parent / link.target).resolve() for link in links(page.read_text()) if link.target
            )
            waiting += [str(path.relative_to(root)) for path in linked if path.is_file()]


def fetch_mermaid(folder: Path) -> Path | None:
    """Return a copy of Mermaid, which draws the diagrams in the browser; None without npm to fetch it.

    Raises:
        SystemExit: The file is not the one whose digest is pinned here.
    """
    script = folder / f"mermaid-{MERMAID}.min.js"
    if not script.exists():
        if shutil.which("npm") is None:
            return None
        command = ["npm", "pack", "--silent", f"mermaid@{MERMAID}", "--pack-destination", str(folder)]
        archive = folder / subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(archive) as content:
            member = content.extractfile("package/dist/mermaid.min.js")
            assert member is not None  # noqa: S101 - it is a regular file
            script.write_bytes(member.read())
        archive.unlink()
    if hashlib.sha256(script.read_bytes()).hexdigest() != MERMAID_SHA256:
        sys.exit(f"{script}: not the file whose digest is pinned in tools/build_docs.py")
    return script


def main() -> int:
    """Build the site; the exit code is that of Zensical, which is 1 after any warning."""
    BUILD.mkdir(exist_ok=True)
    stage(nav((ROOT / "mkdocs.yml").read_text()), ROOT, BUILD / "docs")
    if script := fetch_mermaid(BUILD):
        shutil.copyfile(script, BUILD / "docs" / "mermaid.min.js")
    else:
        print("npm is not installed: pages load Mermaid, which draws the diagrams, from a CDN")
    zensical = Path(sys.executable).with_name("zensical")
    return subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
