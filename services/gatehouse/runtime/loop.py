"""The event loop of long-running processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine on uvloop if it is installed, and return its result."""
    try:
        import uvloop  # noqa: PLC0415 - not installed on Windows
    except ImportError:
        return asyncio.run(work)
    code: int = uvloop.run(work)
    return code
