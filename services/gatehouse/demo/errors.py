"""What can go wrong in the demo that is no fault of the program."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; one line says why and how to mend it."""
