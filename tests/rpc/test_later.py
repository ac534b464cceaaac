"""What is left for later is done soon, once, in order, and in no call's name."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from gatehouse.rpc._later import LATER_SECONDS, Later
from tests.support.rpc import eventually

_name: ContextVar[str] = ContextVar("name", default="nobody")


async def test_it_is_done_a_moment_later() -> None:
    done: list[int] = []
    later = Later(done.append)
    loop = asyncio.get_running_loop()
    began = loop.time()
    later.add(1)
    later.add(2)
    assert done == []
    await eventually(lambda: done)
    assert done == [1, 2]
    assert loop.time() - began >= LATER_SECONDS * 0.9


async def test_what_comes_after_that_is_done_too() -> None:
    done: list[int] = []
    later = Later(done.append)
    for number in range(3):
        later.add(number)
        await eventually(lambda: done and done[-1] == number)  # noqa: B023 - awaited at once
    assert done == [0, 1, 2]


async def test_many_do_not_wait() -> None:
    done: list[int] = []
    later = Later(done.append)
    for number in range(64):
        assert done == []
        later.add(number)
    assert done == list(range(64))


async def test_whoever_cannot_wait_has_it_done() -> None:
    done: list[int] = []
    later = Later(done.append)
    later.add(1)
    later.flush()
    assert done == [1]
    later.flush()
    assert done == [1]


async def test_it_is_done_in_no_call_s_context() -> None:
    done: list[str] = []

    def work(item: str) -> None:
        done.append(f"{item} for {_name.get()}")

    later = Later(work)
    _name.set("alice")
    later.add("first")
    await eventually(lambda: done)
    later.add("second")
    later.flush()
    for _ in range(64):
        later.add("many")
    assert set(done) == {"first for nobody", "second for nobody", "many for nobody"}


async def test_two_threads_lose_nothing_and_double_nothing() -> None:
    """The reader of metrics has a thread of its own."""
    done: list[int] = []
    later, ended = Later(done.append), threading.Event()

    def flush() -> None:
        while not ended.is_set():
            later.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        for number in range(20_000):
            later.add(number)
    finally:
        ended.set()
        thread.join()
    later.flush()
    assert sorted(done) == list(range(20_000))


async def test_work_that_fails_harms_neither_what_waits_behind_it_nor_who_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ValueError("canary-77")
        done.append(item)

    later = Later(work)
    for number in range(64):
        later.add(number)
    assert done == list(range(1, 64))
    later.add(0)
    later.add(64)
    await eventually(lambda: done[-1] == 64)
    assert caplog.messages == ["what a call left to be done failed: ValueError"] * 2
    assert "canary-77" not in caplog.text


def test_without_a_loop_it_is_done_at_once() -> None:
    done: list[int] = []
    later = Later(done.append)
    later.add(1)
    assert done == [1]


async def test_once_it_is_settled_nothing_waits() -> None:
    done: list[int] = []
    later = Later(done.append)
    later.add(1)
    later.settle()
    assert done == [1]
    later.add(2)
    assert done == [1, 2]
