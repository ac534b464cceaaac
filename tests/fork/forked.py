"""A fork with an environment of its own, which shares the installed dependencies."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.support.repository_copy import BIN, Checkout

VENV = BIN.parent
NAME = re.compile("gatehouse", re.IGNORECASE)
# Environments of other tools, and what `pip install -e .` has written for this project.
OTHERS = ("docs", "sbom", "mutants", "gatehouse", "_gatehouse")


class Fork(Checkout):
    """A fork, installed as `make install` does it, but without downloads.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        path = [part for part in os.environ["PATH"].split(os.pathsep) if part != str(BIN)]
        super().__init__(folder, {"PATH": os.pathsep.join(path)})
        venv = folder / ".venv"
        shutil.copytree(VENV, venv, copy_function=os.link, symlinks=True, ignore=self._ignored)
        for script in (venv / "bin").iterdir():
            content = b"" if script.is_symlink() else script.read_bytes()
            if content.startswith(b"#!"):
                script.unlink()
                script.write_bytes(content.replace(bytes(VENV), bytes(venv)))
                script.chmod(0o755)
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
        self.run(".venv/bin/python", "-m", "pip", "install", *options, "-e", ".")
        for stamp in (".dev", ".testbed"):
            (venv / stamp).touch()

    @staticmethod
    def _ignored(folder: str, names: list[str]) -> list[str]:
        if folder == str(VENV) or folder.endswith("site-packages"):
            return [name for name in names if name.startswith(OTHERS)]
        return [name for name in names if name == "gatehouse"] if folder == str(BIN) else []

    def test(self, *arguments: str) -> str:
        """Run some tests."""
        return self.run(".venv/bin/python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *arguments)

    def lines_with_the_old_name(self) -> list[str]:
        """Return all lines of committed files, and all paths, that contain the old name."""
        names = self.run("git", "ls-files", "-z").split("\0")
        found = [name for name in names if NAME.search(name)]
        for name in filter(None, names):
            content = (self.folder / name).read_bytes().decode(errors="replace")
            found += [f"{name}: {line}" for line in content.splitlines() if NAME.search(line)]
        return found
