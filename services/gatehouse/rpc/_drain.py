"""Stop accepting calls without dropping any."""

from __future__ import annotations

import asyncio

_ROUND_SECONDS = 0.005
_MAX_ROUNDS = 20
_QUIET_ROUNDS = 2


class Drain:
    """Hold new calls while the gRPC server begins to stop.

    When it begins to stop, gRPC drops calls that it has received but not yet passed to a handler; their
    callers get CANCELLED. So new calls are held until no more arrive. Then the gRPC server is stopped, and
    the held calls continue like all other calls in progress.

    Attributes:
        started: Set when the server begins to stop.
    """

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()
        self._held = 0

    @property
    def holding(self) -> bool:
        """Whether new calls are held."""
        return not self._gate.is_set()

    async def admit(self) -> None:
        """Return at once, or wait while calls are held."""
        if self.holding:
            self._held += 1
            await self._gate.wait()

    async def hold_calls(self) -> None:
        """Hold new calls, and return when no more arrive, after 0.1 seconds at the latest."""
        self._gate.clear()
        quiet = 0
        for _ in range(_MAX_ROUNDS):
            held = self._held
            await asyncio.sleep(_ROUND_SECONDS)
            quiet = quiet + 1 if held == self._held else 0
            if quiet == _QUIET_ROUNDS:
                return

    def release_calls(self) -> None:
        """Let held calls continue."""
        self._gate.set()
