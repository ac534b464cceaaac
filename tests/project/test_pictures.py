"""The pictures of the documentation."""

from __future__ import annotations

import struct
from pathlib import Path

from tools.check_links import ROOT, links

# Width and height of each subject, in pixels.
SIZES = {"matrix": (1040, 846), "denied": (1040, 480)}
MAX_BYTES = 150_000


def size_of(file: Path) -> tuple[int, int]:
    """Return width and height of a PNG."""
    start = file.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", start[16:])
    return width, height


def test_pages_show_every_picture_in_light_and_dark() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {(page.parent / link.target).resolve() for page in pages for link in links(page.read_text())}
    pictures = set((ROOT / "docs" / "pictures").glob("*"))
    assert pictures == {path for path in named if path.suffix in {".png", ".svg"}}
    known = {f"{name}-{scheme}.png" for name in SIZES for scheme in ("light", "dark")}
    assert {path.name for path in pictures} in (known, set())  # a fork begins without pictures


def test_pictures_are_small_and_of_one_size() -> None:
    for path in (ROOT / "docs" / "pictures").glob("*"):
        size = SIZES[path.stem.rpartition("-")[0]]
        assert (size_of(path), path.stat().st_size < MAX_BYTES) == (size, True), path
