"""Stop accepting calls without dropping any."""

from __future__ import annotations

import asyncio

_ROUND_SECONDS = 0.005
_QUIET_SECONDS = 0.1
_MAX_SECONDS = 0.5
# On a machine that is short of CPU, clients are slower, too: wait in proportion to the lateness of this task.
_LATENESS = 10
_MAX_SECONDS_IF_LATE = 2.0


class Drain:
    """Hold new calls while the gRPC server begins to stop.

    When it begins to stop, gRPC drops calls that it has not yet passed to a handler; their callers get
    CANCELLED (https://github.com/grpc/grpc/issues/41785). This includes calls that clients send before they
    have read that the server stops. So new calls are held until no more arrive: a client that waits for a
    call sends no other. Then the gRPC server is stopped, and the held calls continue like all other calls in
    progress. Clients that do not wait for one another can still lose a call.

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
        """Hold new calls, and return when none has arrived for 0.1 s, after 0.5 s at the latest.

        If the process gets little CPU time, it waits longer, at most two seconds.
        """
        self._gate.clear()
        time = asyncio.get_running_loop().time
        began = quiet_since = time()
        held, lateness = self._held, 0.0
        while True:
            before = time()
            await asyncio.sleep(_ROUND_SECONDS)
            now = time()
            lateness = max(lateness, now - before - _ROUND_SECONDS)
            if held != self._held:
                held, quiet_since = self._held, now
            patience = min(max(_MAX_SECONDS, 5 * _LATENESS * lateness), _MAX_SECONDS_IF_LATE)
            quiet = min(max(_QUIET_SECONDS, _LATENESS * lateness), patience)
            if now - quiet_since >= quiet or now - began >= patience:
                return

    def release_calls(self) -> None:
        """Let held calls continue."""
        self._gate.set()
