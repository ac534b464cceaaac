"""An iterator whose consumer does not stay blocked when the call ends."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CallEnded(Exception):
    """The call has ended, so there are no more items."""


class Interruptible(Iterator[T], Generic[T]):
    """Iterate in a separate thread, one item at a time, until the call ends.

    `next` raises CallEnded when the call ends, even while it waits for an item.

    Args:
        start: Returns what to iterate over; called in the thread.
        ended: Done when the call has ended.
        context: The context variables of the thread; None for an empty context.
    """

    def __init__(
        self, start: Callable[[], Iterable[T]], ended: Future[Any], context: contextvars.Context | None = None
    ) -> None:
        self._start = start
        self._context = context or contextvars.Context()
        self._items: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._wanted = threading.Semaphore(0)
        self._stopped = False
        threading.Thread(target=self._context.run, args=(self._iterate,), daemon=True).start()
        ended.add_done_callback(self._stop)

    def __next__(self) -> T:
        self._wanted.release()
        item, error = self._items.get()
        if error is not None:
            raise error
        return item  # type: ignore[no-any-return] # an item

    def _stop(self, _: Future[Any]) -> None:
        self._stopped = True
        self._items.put((None, CallEnded()))
        self._wanted.release()

    def _iterate(self) -> None:
        try:
            iterator = iter(self._start())
            while self._wanted.acquire() and not self._stopped:
                self._items.put((next(iterator), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the item
            self._items.put((None, error))
        else:
            if hasattr(iterator, "close"):
                iterator.close()
