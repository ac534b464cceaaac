"""What calls leave to be done after them: in a row it costs a fraction of what it costs call by call."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Generic, TypeVar

T = TypeVar("T")

LATER_SECONDS = 0.02
_MOST = 64
_logger = logging.getLogger(__name__)


class Later(Generic[T]):
    """Holds items for a moment and hands them on together: after LATER_SECONDS, or when there are many.

    Args:
        work: Does one item, in no call's context. What it raises is told by its type, and harms nobody else.
    """

    def __init__(self, work: Callable[[T], object]) -> None:
        self._work = work
        self._held: deque[T] = deque()
        self._most = _MOST

    def add(self, item: T) -> None:
        """Takes an item."""
        held = self._held
        held.append(item)
        count = len(held)
        if count >= self._most:
            self.flush()
        elif count == 1:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # a coroutine that is closed after its loop
                self.flush()
            else:
                loop.call_later(LATER_SECONDS, self._drain, context=Context())

    def flush(self) -> None:
        """Does all that is held, now; any thread may ask for it."""
        Context().run(self._drain)

    def settle(self) -> None:
        """Does all that is held, and from here on each item at once: there may be no later."""
        self._most = 1
        self.flush()

    def _drain(self) -> None:
        take, work = self._held.popleft, self._work
        while True:
            try:
                item = take()
            except IndexError:  # asked for, and not looked at: another thread may take from it too
                return
            try:
                work(item)
            except Exception as error:  # noqa: BLE001 - others may not suffer: what waits behind, and who asks
                kind = type(error).__qualname__  # its text may hold anything
                _logger.error("what a call left to be done failed: %s", kind)  # noqa: TRY400 - likewise
