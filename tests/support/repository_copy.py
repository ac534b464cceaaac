"""Copies of the repository, in which a test may change everything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Copy:
    """A copy of the repository that uses the installed dependencies.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
        author = ["-c", "user.name=Alice", "-c", "user.email=alice@example.test"]
        subprocess.run(["git", *author, "commit", "--quiet", "--message=Copy"], cwd=folder, check=True)

    def run(self, *command: str) -> str:
        """Run a command in the copy and return its output; it must succeed."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEHOUSE_", "COV_"))}
        environment |= {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'services'}:{self.folder}",
        }
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

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
