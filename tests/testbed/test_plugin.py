"""The pytest plugin, in a separate run of pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.child_coverage import measured

# Both workers run it. The one that is first keeps its turn until the other has begun to wait.
SHARED = """
import pathlib
import time

import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture
def begun(worker_id):
    (FOLDER / f"begun-{worker_id}").touch()


def test_it(begun, gatehouse):
    assert gatehouse.faults.list() == {}
    name = gatehouse.faults.add("GetUser", code="ABORTED")
    gatehouse.clock.advance(minutes=1)
    deadline = time.monotonic() + 60
    while len([*FOLDER.glob("begun-*")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [[*gatehouse.faults.list()] for _ in range(30)] == [[name]] * 30
    with (FOLDER / "used").open("a") as used:
        used.write(gatehouse.control_url + "\\n")
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(SHARED)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--gatehouse-shared", *arguments],
        cwd=folder,
        env=measured(os.environ | {"PYTHONPATH": str(folder)}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_workers_take_turns_with_a_shared_test_bed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "-n", "2", "--dist", "each")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (tmp_path / "used").read_text().split()
    assert first == second


def test_shared_test_bed_that_does_not_start_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('no web server')")
    done = run_pytest(tmp_path, "-n", "1")
    assert done.returncode == 3
    assert "the test bed does not start: no web server" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
