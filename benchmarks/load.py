"""The load: several channels, several calls in flight on each, every answer checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from benchmarks.processes import BenchmarkError, Process

CHANNELS = 4
IN_FLIGHT = 8
DEADLINE_SECONDS = 5.0


class WrongAnswer(BenchmarkError):
    """A server answered, but not with what was asked for."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of unary call.

    Attributes:
        path: `/package.Service/Method`.
        request: Makes the request numbered n.
        answer: Class of the answer.
        is_right: Whether an answer belongs to request n.
        numbers: Requests are numbered from 0 to this, without it.
    """

    path: str
    request: Callable[[int], Message]
    answer: type[Message]
    is_right: Callable[[int, Any], bool]
    numbers: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round showed.

    Attributes:
        calls: Calls that were answered in the measured time.
        seconds: The measured time.
        cpu_seconds: CPU time of the server in it.
        all_calls: All calls of the round, with those before and after the measured time.
    """

    calls: int
    seconds: float
    cpu_seconds: float
    all_calls: int

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """CPU time of the server for one call, in microseconds."""
        return self.cpu_seconds / self.calls * 1e6

    @property
    def busy(self) -> float:
        """Share of one core that the server used: 1 when it is what limits the rate."""
        return self.cpu_seconds / self.seconds


class Caller:
    """Makes the calls of a workload on one channel.

    Args:
        channel: Where they go.
        workload: What is called.
        metadata: Sent with every call.
    """

    def __init__(
        self, channel: grpc.aio.Channel, workload: Workload, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._workload = workload
        self._metadata = tuple(metadata)
        self._call: Any = channel.unary_unary(
            workload.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=workload.answer.FromString,
        )

    async def __call__(self, number: int) -> None:
        """Makes the call numbered `number` and checks its answer.

        Raises:
            WrongAnswer: It is another, or an error.
        """
        workload = self._workload
        try:
            answer = await self._call(
                workload.request(number), metadata=self._metadata, timeout=DEADLINE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise WrongAnswer(f"{workload.path}: {error.code().name}: {error.details()}") from None
        if not workload.is_right(number, answer):
            raise WrongAnswer(f"{workload.path}: the answer is not the one to request {number}")


async def press(
    process: Process,
    port: int,
    workload: Workload,
    metadata: Sequence[tuple[str, str]],
    *,
    seconds: float,
    warm_up: float,
) -> Sample:
    """Keeps a server as busy as it can be, and measures a part of that time.

    Args:
        process: The server.
        port: Where it listens on loopback.
        workload: What is called.
        metadata: Sent with every call.
        seconds: Time that is measured.
        warm_up: Seconds before it.

    Raises:
        WrongAnswer: An answer was wrong.
    """
    answered = 0
    ending = False

    async def keep_calling(caller: Caller, chance: random.Random) -> None:
        nonlocal answered
        while not ending:
            await caller(chance.randrange(workload.numbers))
            answered += 1

    async def measure() -> tuple[int, float, float]:
        nonlocal ending
        await asyncio.sleep(warm_up)
        before, calls, cpu = time.perf_counter(), answered, process.cpu_seconds()
        await asyncio.sleep(seconds)
        after, calls, cpu = time.perf_counter(), answered - calls, process.cpu_seconds() - cpu
        ending = True
        if not calls:
            raise BenchmarkError(f"{process.name}: no call was answered within {seconds:g} s")
        return calls, after - before, cpu

    async with AsyncExitStack() as stack:
        callers = [
            Caller(await stack.enter_async_context(open_channel(port)), workload, metadata)
            for _ in range(CHANNELS)
        ]
        # One by one at first, so that a new token is verified before there is a crowd.
        for number, caller in enumerate(callers):
            await caller(number)
            answered += 1
        try:
            async with asyncio.TaskGroup() as group:
                measured = group.create_task(measure())
                for number, caller in enumerate(callers * IN_FLIGHT):
                    group.create_task(keep_calling(caller, random.Random(number)))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
    return Sample(*measured.result(), all_calls=answered)


def open_channel(port: int) -> grpc.aio.Channel:
    """Opens a channel with a connection of its own, in plaintext on loopback."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
