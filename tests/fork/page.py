"""The commands of docs/make-it-your-own.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "make-it-your-own.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path, heading: str) -> str:
    """Return the commands of a section, or of all sections from this heading on if it ends with `...`."""
    text = page.read_text()
    start = re.search(rf"^## {re.escape(heading.removesuffix('...'))}$", text, re.MULTILINE)
    assert start is not None, heading
    end = re.search(r"^## ", text[start.end() :], re.MULTILINE)
    is_section = end is not None and not heading.endswith("...")
    section = text[start.end() : start.end() + end.start()] if is_section and end else text[start.end() :]
    found = _BLOCK.findall(section)
    assert found, heading
    return "".join(found)
