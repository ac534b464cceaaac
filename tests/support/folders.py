"""Folders whose path is short enough for a Unix socket, which may have some 90 characters."""

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
