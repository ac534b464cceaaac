"""The command line, run in this process or in one with a terminal: output and exit code."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatehouse.cli import main
from tests.support.child_coverage import measured
from tests.support.environment import SetEnvironment


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.splitlines()


class Cli:
    """Runs commands in this process.

    Args:
        capture: Captures what is written to the file descriptors.
        patch: Replaces standard input for one test.
        set_environment: Sets environment variables for one test.
        folder: Where to keep standard input.
    """

    def __init__(
        self,
        capture: pytest.CaptureFixture[str],
        patch: pytest.MonkeyPatch,
        set_environment: SetEnvironment,
        folder: Path,
    ) -> None:
        self._capture = capture
        self._patch = patch
        self._input = folder / "input"
        self.set = set_environment

    def __call__(self, *arguments: str, given: str = "", **variables: str) -> Done:
        """Run `gatehouse ARGUMENTS` with `given` as its standard input."""
        self.set(**variables)
        self._input.write_text(given)
        self._capture.readouterr()
        with self._input.open() as stream:
            self._patch.setattr(sys, "stdin", stream)
            with pytest.raises(SystemExit) as caught:
                main(list(arguments))
        written = self._capture.readouterr()
        return Done(int(caught.value.code or 0), written.out, written.err)


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    set_environment: SetEnvironment,
    tmp_path: Path,
) -> Cli:
    """Run commands in this process."""
    return Cli(capfd, monkeypatch, set_environment, tmp_path)


def clean_environment() -> dict[str, str]:
    """Return the environment without what changes the output of commands."""
    names = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "PYTHONIOENCODING")
    return {name: os.environ[name] for name in os.environ if not name.startswith(("GATEHOUSE_", *names))}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `gatehouse ARGUMENTS` as a process whose output is piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "gatehouse", *arguments],
        env=clean_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_on_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """Run `gatehouse ARGUMENTS` on a terminal and return what it shows."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "gatehouse", *arguments],
        env=measured(clean_environment() | {"TERM": "xterm-256color"} | environment),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ):
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(controller, 65536):
                shown += chunk
        except OSError:  # Linux reports the end of a terminal as an error
            pass
        finally:
            os.close(controller)
    return shown.decode(environment.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n")
