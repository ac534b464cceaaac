"""The helpers of the tests."""

from __future__ import annotations

import signal

import pytest

from tests.support.command import Command


def test_a_command_does_not_outlive_its_block() -> None:
    with pytest.raises(RuntimeError), Command[str](["sleep", "600"]) as command:
        raise RuntimeError
    assert command.returncode == -signal.SIGKILL
