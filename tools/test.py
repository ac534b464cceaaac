"""Runs the tests with branch coverage and holds each room to its floor: `test.py [PYTEST ARGUMENTS]`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parent.parent
# Percent of lines and branches. A floor only rises: oauth and rpc are at 98, the rest is to reach 90.
FLOORS: dict[str, float] = {
    "oauth": 98,
    "rpc": 98,
    "provider": 98,
    "storage": 98,
    "users": 96,
    "admin": 97,
    "public": 98,
    "issuer": 96,
    "demo": 95,
    "app": 93,
    "cli": 90,
    "settings": 90,
}


def main(arguments: list[str]) -> int:
    """Returns the exit code: that of pytest, or 1 when a room is below its floor."""
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    workers = str(min(os.cpu_count() or 1, 4))
    whole = not arguments
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        workers,
        "--dist",
        "loadfile",
        "--cov",
        "--cov-report=",
        *arguments,
    ]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code != 0 or not whole:
        return code
    measured = coverage.Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    below = []
    for room, floor in FLOORS.items():
        percent = measured.report(
            include=[f"*/gatehouse/{room}/*", f"*/gatehouse/{room}.py"], file=io.StringIO()
        )
        print(f"coverage  {room:10} {percent:5.1f} %  (floor {floor:g} %)")
        if percent < floor:
            below.append(room)
    if below:
        print(f"coverage is below its floor in: {', '.join(below)}; `coverage report -m` names the lines")
        return 1
    print("all tests passed, every room is above its floor")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
