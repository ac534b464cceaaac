"""Copies of the repository, in which a test may change everything, and what is made from them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Variables of this project, of coverage, of make, of pytest, and of Python.
INHERITED = ("GATEHOUSE_", "COV_", "MAKE", "PYTEST_", "PYTHON")


class Checkout:
    """A repository in which commands are run.

    Args:
        folder: Where it is.
        environment: Variables to set.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment

    def run(self, *command: str, seconds: float = 900) -> str:
        """Run a command in the repository and return its output; it must succeed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=inherited | self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout


class Copy(Checkout):
    """A copy of the repository that uses the installed dependencies.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))
        super().__init__(folder, {"PATH": path, "PYTHONPATH": f"{folder / 'services'}:{folder}"})
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        author = ("-c", "user.name=Alice", "-c", "user.email=alice@example.test")
        self.run("git", *author, "commit", "--quiet", "--message=Copy")

    def make(self, *arguments: str) -> str:
        """Run make with the installed environment instead of one of its own."""
        return self.run("make", "--assume-old=install", f"VENV={BIN.parent}", *arguments)

    def check(self) -> str:
        """Run lint and the demo, and return the policy."""
        self.make("lint")
        demo = self.run(sys.executable, "-m", "gatehouse", "demo")
        assert re.search(r"(\d+) of \1 ", demo), demo
        return self.run(sys.executable, "-m", "gatehouse", "policy")

    def edit(self, name: str, pattern: str, replacement: str) -> None:
        """Replace the one place in a file that matches."""
        path = self.folder / name
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert count == 1, f"{name}: {pattern} matches {count} times"
        path.write_text(text)
