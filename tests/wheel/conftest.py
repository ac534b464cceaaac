"""A project outside the checkout with its own environment, into which the wheel is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from gatehouse_testbed.environments import child_environment

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/testbed/python"


def pinned(*names: str, lock: str = "dev.txt") -> str:
    """Return the lines of a lock file for these packages, with their hashes."""
    text = (ROOT / "requirements" / lock).read_text()
    blocks = re.findall(r"^[^\s#].*(?:\n    .*)*", text, re.MULTILINE)
    return "\n".join(block for block in blocks if re.split(r"[=\[]", block)[0] in names)


class Project:
    """A project with its own environment, which has the wheel of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        venv.create(folder / "venv", with_pip=True)
        self.programs = folder / "venv/bin"
        self.python = self.programs / "python"
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        tools = folder / "tools.txt"
        tools.write_text(
            pinned("pytest", "pytest-xdist", "execnet", "iniconfig", "packaging", "pluggy", "pygments")
        )
        self._pip("--require-hashes", "-r", str(ROOT / "requirements/testbed.txt"), "-r", str(tools))
        (wheel,) = folder.glob("*.whl")
        self._pip(str(wheel))

    def _pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "install", "-q", "--no-deps", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def install(self, lock: str, package: str) -> None:
        """Install a package as it is pinned in a file of `requirements/`."""
        file = self.folder.parent / f"{package}.txt"
        file.write_text(pinned(package, lock=lock))
        self._pip("--require-hashes", "-r", str(file))

    def pytest(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the tests of the project, or of another folder, as if its environment were activated."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(self.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=folder or self.folder,
            env=child_environment(os.environ | {"PATH": path}),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The example, outside the checkout."""
    return Project(tmp_path_factory.mktemp("example"))
