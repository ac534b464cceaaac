"""Errors of the test bed. `exit_code` is the exit code of `gatehouse`."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot continue; the message is one line that says why and how to fix it."""

    exit_code = 3
