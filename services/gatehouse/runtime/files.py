"""Files that other processes wait for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file atomically: a reader sees the whole content or no file.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise type(error)(error.errno, error.strerror, str(path)) from None
