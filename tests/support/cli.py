"""The command line, run in this process as a person would: what it prints, and its exit code."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatehouse.cli import main


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
    """Runs commands.

    Args:
        capture: Takes what is written to the descriptors.
        patch: Sets variables and standard input for one test.
        folder: Where input is kept.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._capture = capture
        self._patch = patch
        self._input = folder / "input"
        for name in os.environ:
            if name.startswith("GATEHOUSE_"):
                patch.delenv(name)

    def set(self, **variables: str) -> None:
        """Sets variables of the environment."""
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def __call__(self, *arguments: str, given: str = "", **variables: str) -> Done:
        """Runs `gatehouse ARGUMENTS` with `given` as its input."""
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
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs commands in this process."""
    return Cli(capfd, monkeypatch, tmp_path)
