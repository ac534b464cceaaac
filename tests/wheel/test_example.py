"""The test bed as another project installs it: from a wheel, in an environment of its own."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from gatehouse_testbed.bed.client import run_testbed
from tests.support.eventually import eventually
from tests.wheel.conftest import EXAMPLE, Project

# How often a test bed is started and stopped; `make test-testbed CYCLES=200` is the long form.
CYCLES = int(os.environ.get("CYCLES", "4"))


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_example_passes(project: Project, arguments: tuple[str, ...]) -> None:
    done = project.pytest(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^9 passed", done.stdout, re.MULTILINE), done.stdout


def test_examples_can_be_run_where_they_are(project: Project) -> None:
    """The settings of this repository are not for them."""
    folders = [file.parent for file in EXAMPLE.parent.glob("*/pytest.ini")]
    assert EXAMPLE in folders
    for folder in folders:
        done = project.pytest("--collect-only", folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr


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
    assert "span     gatehouse.users.v1.UserService/GetUser " in shown
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


def cycle() -> tuple[Path, str]:
    """Start and stop a test bed; return its folder and its segment of shared memory."""
    with run_testbed() as testbed:
        folder = testbed.ca_file.parents[1]
        assert users_of(folder)
        urls = (testbed.control_url, testbed.issuer)
        addresses = [*testbed.targets.values(), *(urlsplit(url).netloc for url in urls)]
        segment = (folder / "pg/postmaster.pid").read_text().splitlines()[6].split()[-1]
    for address in addresses:
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=20)
    return folder, segment


async def test_test_beds_that_start_and_stop_leave_nothing() -> None:
    cycle()  # what this process opens once
    descriptors = psutil.Process().num_fds()
    folders, segments = zip(*(cycle() for _ in range(CYCLES)), strict=True)
    assert psutil.Process().num_fds() <= descriptors
    assert [folder for folder in folders if folder.exists()] == []
    await eventually(lambda: not any(map(users_of, folders)))
    await eventually(lambda: shared_memory().isdisjoint(segments))
