"""Graceful shutdown on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any, Self

from gatehouse.rpc import Server


class StopSignals:
    """Handle SIGTERM and SIGINT: the first starts a graceful shutdown, the second stops at once.

    Enter it before the servers start, so that no signal kills a process that is answering calls.

    Args:
        second_stops_at_once: Whether the second signal does so. A worker can get the signal of its parent and
            one of a service manager that signals all processes.
    """

    _NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, *, second_stops_at_once: bool = True) -> None:
        self._second_stops_at_once = second_stops_at_once
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._first_at: float | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in self._NUMBERS:
            loop.add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._NUMBERS:
            loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Start a graceful shutdown if none has started."""
        if not self.first.is_set():
            self._first_at = asyncio.get_running_loop().time()
            self.first.set()

    def stop_at_once(self) -> None:
        """Stop without waiting for calls."""
        self.stop()
        self.second.set()

    def _on_signal(self) -> None:
        if self.first.is_set() and self._second_stops_at_once:
            self.second.set()
        self.stop()

    def seconds_since_first(self) -> float:
        """Return the time since the first signal, 0 if there was none."""
        return 0.0 if self._first_at is None else asyncio.get_running_loop().time() - self._first_at


async def run_until_signal(servers: Sequence[Server], signals: StopSignals) -> None:
    """Serve until a signal, then stop all servers gracefully; a second signal stops them at once."""
    await signals.first.wait()
    stopping: asyncio.Future[Any] = asyncio.gather(*(server.stop() for server in servers))
    at_once: asyncio.Future[Any] = asyncio.ensure_future(signals.second.wait())
    await asyncio.wait({stopping, at_once}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await asyncio.gather(*(server.stop(0) for server in servers))
    at_once.cancel()
    await asyncio.gather(stopping, at_once, return_exceptions=True)
