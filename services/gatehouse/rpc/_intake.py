"""How a server stops taking calls without losing any."""

from __future__ import annotations

import asyncio

_ROUND_SECONDS = 0.005
_MAX_ROUNDS = 20
_QUIET_ROUNDS = 2


class Intake:
    """The way of calls into a server.

    Told to stop, gRPC drops the calls that have reached it and not yet their handlers, and their callers get
    CANCELLED. So calls are held for a moment first: callers that wait send nothing new, the queue runs empty,
    gRPC is told, and then what was held goes on as any call that is under way.

    Attributes:
        draining: Set when the server begins to stop.
        gate: Where calls are held; None while they are not.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self._held = 0

    async def hold(self, gate: asyncio.Event) -> None:
        """Holds one call until the gate is opened."""
        self._held += 1
        await gate.wait()

    async def close(self) -> None:
        """Begins to hold calls, and waits until none come any more, a tenth of a second at most."""
        self.gate = asyncio.Event()
        quiet = 0
        for _ in range(_MAX_ROUNDS):
            held = self._held
            await asyncio.sleep(_ROUND_SECONDS)
            quiet = quiet + 1 if held == self._held else 0
            if quiet == _QUIET_ROUNDS:
                return

    def open(self) -> None:
        """Lets those that are held go on."""
        if self.gate is not None:
            gate, self.gate = self.gate, None
            gate.set()
