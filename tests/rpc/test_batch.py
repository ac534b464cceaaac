"""Batch: the bookkeeping of calls runs soon, in order, and outside of the context of any call."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from gatehouse.rpc._batch import BATCH_SECONDS, Batch
from tests.support.eventually import eventually

_caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_functions_run_together_in_the_order_in_which_they_were_added() -> None:
    done: list[int] = []
    batch = Batch()
    loop = asyncio.get_running_loop()
    began = loop.time()
    batch.add(lambda: done.append(1))
    batch.add(lambda: done.append(2))
    assert done == []
    await eventually(lambda: done)
    assert done == [1, 2]
    assert loop.time() - began >= BATCH_SECONDS * 0.9


async def test_a_batch_can_be_used_again_after_it_ran() -> None:
    done: list[int] = []
    batch = Batch()
    for number in range(3):
        batch.add(lambda number=number: done.append(number))  # type: ignore[misc] # mypy cannot infer this lambda
        await eventually(lambda number=number: done[-1:] == [number])  # type: ignore[misc] # as above
    assert done == [0, 1, 2]


async def test_flush_runs_what_was_added_once() -> None:
    done: list[int] = []
    batch = Batch()
    batch.add(lambda: done.append(1))
    batch.flush()
    assert done == [1]
    batch.add(lambda: done.append(2))
    await eventually(lambda: len(done) == 2)
    assert done == [1, 2]


def test_without_an_event_loop_functions_run_immediately() -> None:
    done: list[int] = []
    Batch().add(lambda: done.append(1))
    assert done == [1]


@pytest.mark.parametrize("flush", [True, False])
async def test_functions_do_not_see_the_context_of_a_call(flush: bool) -> None:
    seen: list[str] = []
    batch = Batch()
    _caller.set("alice")
    batch.add(lambda: seen.append(_caller.get()))
    if flush:
        batch.flush()
    await eventually(lambda: seen)
    assert seen == ["nobody"]


async def test_a_function_that_fails_does_not_keep_the_next_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []
    batch = Batch()
    batch.add(lambda: 1 / 0)
    batch.add(lambda: done.append(1))
    batch.flush()
    assert done == [1]
    assert [record.getMessage() for record in caplog.records] == ["the bookkeeping of a call failed"]
