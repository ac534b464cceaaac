"""Programs in other languages: their tools, and a cache for what is installed or built once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


class Missing(Exception):
    """A tool is missing, or a program cannot be built; the message is one line."""


def find_tool(name: str, needs: str, *, path: str | None = None) -> str:
    """Return the path of a tool, from the search path `path` or that of the environment.

    Raises:
        Missing: It is not installed; the message says what is needed.
    """
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"needs {needs}; `{name}` is not installed")
    return found


def cached(name: str, sources: Iterable[Path], build: Callable[[Path], None]) -> Path:
    """Return a folder with copies of files and what `build` made of them, outside of the checkout.

    Args:
        name: Begin of the name of the folder, which also has a hash of the files.
        sources: The files.
        build: Called with the folder, unless it exists.

    Raises:
        Missing: It cannot be built.
    """
    files = sorted(sources)
    digest = hashlib.sha256(b"\0".join(file.name.encode() + file.read_bytes() for file in files))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatehouse"
    target = base / f"{name}-{digest.hexdigest()[:16]}"
    if not target.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base) as made:
            folder = Path(made) / name
            folder.mkdir()
            for file in files:
                shutil.copy(file, folder)
            build(folder)
            folder.rename(target)
    return target


def run_tool(folder: Path, environment: Mapping[str, str], *command: str) -> None:
    """Run a command in a folder, with additional variables.

    Raises:
        Missing: It fails; the message has its output.
    """
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:400] or "no output"
        raise Missing(f"`{Path(command[0]).name} {' '.join(command[1:])}` failed: {said}")


def npm_ci(folder: Path, npm: str) -> None:
    """Install the packages of a lock file.

    Raises:
        Missing: They cannot be installed.
    """
    run_tool(folder, {}, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
