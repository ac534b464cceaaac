"""The command line, run in this process or in a new one: output and exit code."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from gatehouse.cli import main
from tests.support.command import Command
from tests.support.environment import SetEnvironment

# What changes the output of commands.
_OUTPUT = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "PYTHONIOENCODING")


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

    def on_terminal(self, *arguments: str, columns: int = 80, **variables: str) -> str:
        """Run `gatehouse ARGUMENTS` on a terminal and return what it shows."""
        self.set(**{"TERM": "xterm-256color"} | variables)
        encoding = variables.get("PYTHONIOENCODING", "utf-8")
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        with ThreadPoolExecutor(1) as pool, os.fdopen(controller, "rb", buffering=0) as screen:
            shown = pool.submit(_read_all, screen)
            with _standard_files(terminal), open(0, closefd=False) as stream:
                os.close(terminal)
                self._run(arguments, stream, encoding)
            return shown.result().decode(encoding).replace("\r\n", "\n")

    def __call__(self, *arguments: str, given: str = "", **variables: str) -> Done:
        """Run `gatehouse ARGUMENTS` with `given` as its standard input."""
        self.set(**variables)
        self._input.write_text(given)
        self._capture.readouterr()
        with self._input.open() as stream:
            code = self._run(arguments, stream, variables.get("PYTHONIOENCODING", "utf-8"))
        written = self._capture.readouterr()
        return Done(code, written.out, written.err)

    def _run(self, arguments: tuple[str, ...], given: TextIO, encoding: str) -> int:
        """Run a command with new streams for standard output and error, as in a new process."""
        with (
            open(1, "w", encoding=encoding, closefd=False) as out,
            open(2, "w", encoding=encoding, closefd=False, buffering=1) as err,
            self._patch.context() as patch,
        ):
            for name, stream in (("stdin", given), ("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as caught:
                main(list(arguments))
        return int(caught.value.code or 0)


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    set_environment: SetEnvironment,
    tmp_path: Path,
) -> Cli:
    """Run commands in this process."""
    for name in _OUTPUT:
        monkeypatch.delenv(name, raising=False)
    return Cli(capfd, monkeypatch, set_environment, tmp_path)


@contextmanager
def _standard_files(terminal: int) -> Iterator[None]:
    """Make a terminal the standard input, output and error of this process."""
    kept = [os.dup(number) for number in range(3)]
    for number in range(3):
        os.dup2(terminal, number)
    try:
        yield
    finally:
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)


def _read_all(screen: io.RawIOBase) -> bytes:
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while chunk := screen.read(65536):
            shown += chunk
    return shown


def clean_environment() -> dict[str, str]:
    """Return the environment without what changes the output of commands."""
    return {name: os.environ[name] for name in os.environ if not name.startswith(("GATEHOUSE_", *_OUTPUT))}


def start(*arguments: str, **environment: str) -> Command[str]:
    """Start `gatehouse ARGUMENTS` as a process whose output is piped."""
    return Command(
        [sys.executable, "-m", "gatehouse", *arguments],
        env=clean_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
