"""The test bed as another project installs it: from a wheel, in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest

from gatehouse_testbed.bed.client import run_testbed
from gatehouse_testbed.environments import child_environment
from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/testbed/python"
# How often a test bed is started and stopped; `make test-testbed CYCLES=200` is the long form.
CYCLES = int(os.environ.get("CYCLES", "5"))


def pinned(*names: str) -> str:
    """Return the lines of the lock file of the tests for these packages, with their hashes."""
    text = (ROOT / "requirements/dev.txt").read_text()
    blocks = re.findall(r"^[^\s#].*(?:\n    .*)*", text, re.MULTILINE)
    return "\n".join(block for block in blocks if re.split(r"[=\[]", block)[0] in names)


class Project:
    """A project with its own environment, which has the wheel of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        venv.create(folder / "venv", with_pip=True)
        self.python = folder / "venv/bin/python"
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

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the tests of the project."""
        return subprocess.run(
            [str(self.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=child_environment(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The example, outside the checkout."""
    return Project(tmp_path_factory.mktemp("example"))


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_example_passes(project: Project, arguments: tuple[str, ...]) -> None:
    done = project.pytest(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^9 passed", done.stdout, re.MULTILINE), done.stdout


def test_failed_test_shows_what_the_services_have_seen(project: Project) -> None:
    (project.folder / "test_failing.py").write_text(
        """
from test_client import GET_USER, connect

def test_it(gatehouse, connect):
    gatehouse.faults.add(GET_USER, code="NOT_FOUND")
    connect().get_user(gatehouse.users["bob"])
"""
    )
    done = project.pytest("test_failing.py")
    (project.folder / "test_failing.py").unlink()
    assert done.returncode == 1
    shown = done.stdout.partition("Gatehouse test bed")[2]
    assert "call   gatehouse.users.v1.UserService/GetUser by alice: NOT_FOUND INJECTED_FAULT" in shown
    assert "issuer POST introspection: 200" in shown
    assert "fault-1" in shown


def users_of(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if f"{folder}/" in f"{line}/"]


def shared_memory() -> set[str]:
    """Return the ids of all segments of System V shared memory, on Linux."""
    file = Path("/proc/sysvipc/shm")
    return {line.split()[1] for line in file.read_text().splitlines()} if file.exists() else set()


def cycle() -> Path:
    """Start and stop a test bed; return its folder."""
    with run_testbed() as testbed:
        folder = testbed.ca_file.parents[1]
        assert users_of(folder)
    return folder


async def test_test_beds_that_start_and_stop_leave_nothing() -> None:
    before = shared_memory()
    folders = [cycle() for _ in range(CYCLES)]
    assert [folder for folder in folders if folder.exists()] == []
    await eventually(lambda: not any(map(users_of, folders)))
    await eventually(lambda: shared_memory() <= before)
