"""Check the links of Markdown pages to files and headings of this repository, without the network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_LINKS = (
    re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)"),
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE),
    re.compile(r"\b(?:href|src|srcset)=\"([^\"]+)\""),
)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)[ \t#]*$", re.MULTILINE)
_ANCHOR = re.compile(r"<[^>]*\b(?:id|name)=\"([^\"]+)\"")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page to another file or to an anchor.

    Attributes:
        line: Number of its line, from 1.
        target: As written, without an anchor; empty for a link within the page.
        anchor: What follows `#`, or an empty string.
    """

    line: int
    target: str
    anchor: str


def links(text: str) -> Iterator[Link]:
    """Yield the links of a page that have no scheme; code is not searched."""
    prose = _CODE.sub("", _without_fences(text))
    for pattern in _LINKS:
        for match in pattern.finditer(prose):
            if _SCHEME.match(match[1]):
                continue
            target, _, anchor = match[1].partition("#")
            yield Link(prose.count("\n", 0, match.start(1)) + 1, unquote(target), anchor)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page: its headings as GitHub names them, and `id` and `name` attributes."""
    prose = _without_fences(text)
    found = set(_ANCHOR.findall(prose))
    seen: dict[str, int] = {}
    for heading in _HEADING.findall(prose):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def problems(page: Path, root: Path) -> Iterator[str]:
    """Yield one line for each broken link of a page: where it is, what it names, what is wrong."""
    text = page.read_text()
    for link in links(text):
        where = f"{page.relative_to(root)}:{link.line}"
        path = (page.parent / link.target).resolve() if link.target else page
        if link.target.startswith("/") or not path.is_relative_to(root):
            yield f"{where}: {link.target}: leaves the repository; use a relative path"
        elif not path.exists():
            yield f"{where}: {link.target}: no such file"
        elif link.anchor and path.suffix == ".md" and link.anchor not in anchors(path.read_text()):
            yield f"{where}: {link.target}#{link.anchor}: no such heading"


def pages() -> list[Path]:
    """Return the Markdown files of this repository that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in sorted(set(listed.splitlines())) if (path := ROOT / name).exists()]


def _without_fences(text: str) -> str:
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def main() -> int:
    """Print the broken links; the exit code is 1 if there is one."""
    checked = pages()
    found = [problem for page in checked for problem in problems(page, ROOT)]
    print("\n".join(found) if found else f"links of {len(checked)} pages are valid")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
