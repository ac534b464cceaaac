"""Folders with a path that is short enough for Unix sockets (about 90 characters)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """An empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="gh-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
