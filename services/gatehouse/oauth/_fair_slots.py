"""A limit on concurrent work that is fair to sources: waiting callers take turns by source."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """Slots for concurrent work. A free slot goes to the next source, and there to who has waited longest.

    So a source with many callers that wait delays another source by one turn, not by all its callers.

    Args:
        size: Number of slots.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, source: str, seconds: float) -> AsyncIterator[None]:
        """Wait for a slot, and hold it inside the block.

        Args:
            source: Where the caller comes from, such as the address of a connection.
            seconds: Longest time to wait.

        Raises:
            TimeoutError: No slot became free in time.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(source, seconds)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, source: str, seconds: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, deque()).append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self._release()
            elif turn in (queue := self._waiting.get(source, deque())):
                queue.remove(turn)
                if not queue:
                    del self._waiting[source]
            raise

    def _release(self) -> None:
        while self._waiting:
            source, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[source] = queue
            if not turn.done():  # otherwise cancelled a moment ago
                turn.set_result(None)
                return
        self._free += 1
