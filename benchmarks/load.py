"""The load: several channels with several calls in flight each; every response is checked."""

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


class WrongResponse(BenchmarkError):
    """A server returned an error or the wrong response."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of unary call.

    Attributes:
        path: `/package.Service/Method`.
        request: Return request number n.
        answer: Class of the response.
        is_correct: Return whether a response is the correct one for request number n.
        numbers: Requests are numbered from 0 to this number, exclusive.
    """

    path: str
    request: Callable[[int], Message]
    answer: type[Message]
    is_correct: Callable[[int, Any], bool]
    numbers: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurement of one round.

    Attributes:
        calls: Calls that completed in the measured time.
        seconds: Measured time.
        cpu_seconds: CPU time of the server in the measured time.
        all_calls: All calls of the round, including those before and after the measured time.
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
        """CPU time of the server per call, in microseconds."""
        return self.cpu_seconds / self.calls * 1e6

    @property
    def busy(self) -> float:
        """Share of one core that the server used; about 1 if the server limits the rate."""
        return self.cpu_seconds / self.seconds


class Caller:
    """Makes the calls of a workload on one channel.

    Args:
        channel: The channel.
        workload: The calls.
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
        """Make call number `number` and check its response.

        Raises:
            WrongResponse: The response is an error or the wrong one.
        """
        workload = self._workload
        try:
            answer = await self._call(
                workload.request(number), metadata=self._metadata, timeout=DEADLINE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise WrongResponse(f"{workload.path}: {error.code().name}: {error.details()}") from None
        if not workload.is_correct(number, answer):
            raise WrongResponse(f"{workload.path}: wrong response to request {number}")


async def apply_load(
    process: Process,
    port: int,
    workload: Workload,
    metadata: Sequence[tuple[str, str]],
    *,
    seconds: float,
    warm_up: float,
) -> Sample:
    """Put a server under full load, and measure it.

    Args:
        process: The server.
        port: Its port on loopback.
        workload: The calls.
        metadata: Sent with every call.
        seconds: Time to measure.
        warm_up: Seconds before the measured time.

    Raises:
        WrongResponse: A response was an error or the wrong one.
        BenchmarkError: No call completed in the measured time.
    """
    answered = 0
    stopping = False

    async def keep_calling(caller: Caller, numbers: random.Random) -> None:
        nonlocal answered
        while not stopping:
            await caller(numbers.randrange(workload.numbers))
            answered += 1

    async def measure() -> tuple[int, float, float]:
        nonlocal stopping
        await asyncio.sleep(warm_up)
        before, calls, cpu = time.perf_counter(), answered, process.cpu_seconds()
        await asyncio.sleep(seconds)
        after, calls, cpu = time.perf_counter(), answered - calls, process.cpu_seconds() - cpu
        stopping = True
        if not calls:
            raise BenchmarkError(f"{process.name}: no call completed within {seconds:g} s")
        return calls, after - before, cpu

    async with AsyncExitStack() as stack:
        callers = [
            Caller(await stack.enter_async_context(open_channel(port)), workload, metadata)
            for _ in range(CHANNELS)
        ]
        # One call at a time at first, so that the token is cached before the load starts.
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
    """Return a plaintext channel on loopback that shares no connection with others."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
