"""Load on a running system: calls that repeat, a watch that resumes, and the health as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.users.v1 import users_pb2 as pb
from tests.support.eventually import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RECONNECT_SECONDS = 0.05


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in the ErrorInfo of an error, "" if it has none."""
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(raw).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""


@dataclass(frozen=True)
class Outcome:
    """How a call ended, and when, on the monotonic clock."""

    call: str
    began: float
    ended: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    details: str = ""


class Load:
    """Make concurrent calls until the block ends, and record how each ends.

    Args:
        calls: Functions that make one call each; their names are in the outcomes.
        workers: Number of concurrent calls of each function.
        pause: Seconds between two calls of a worker.
    """

    def __init__(self, *calls: Callable[[], Awaitable[Any]], workers: int = 2, pause: float = 0.0) -> None:
        self._calls = calls
        self._workers = workers
        self._pause = pause
        self._going = True
        self.outcomes: list[Outcome] = []

    @property
    def failures(self) -> list[Outcome]:
        """The calls that failed."""
        return [outcome for outcome in self.outcomes if outcome.code is not grpc.StatusCode.OK]

    def successes(self, since: float = 0.0) -> set[str]:
        """Return the names of the calls of which one that began after `since` has succeeded."""
        return {o.call for o in self.outcomes if o.began >= since and o.code is grpc.StatusCode.OK}

    @property
    def names(self) -> set[str]:
        """The names of all calls."""
        return {call.__name__ for call in self._calls}

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._repeat(call)) for call in self._calls for _ in range(self._workers)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going = False
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait until this many more calls have succeeded, or until one has failed."""
        wanted = len(self.outcomes) + count
        await eventually(lambda: len(self.outcomes) >= wanted or self.failures)

    async def _repeat(self, call: Callable[[], Awaitable[Any]]) -> None:
        while self._going:
            began = time.monotonic()
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                ended = time.monotonic()
                self.outcomes.append(
                    Outcome(
                        call.__name__, began, ended, error.code(), reason_of(error), error.details() or ""
                    )
                )
            else:
                self.outcomes.append(Outcome(call.__name__, began, time.monotonic()))
            await asyncio.sleep(self._pause)


class Watch:
    """A watch that reconnects to any replica with the resume token of the last change.

    Args:
        users: Stub of UserService.
        codes: Codes after which it resumes. Another one is a failure, and ends it.
    """

    def __init__(self, users: Any, codes: Sequence[grpc.StatusCode] = (grpc.StatusCode.UNAVAILABLE,)) -> None:
        self._users = users
        self._codes = codes
        self.seen: list[str] = []
        self.failures: list[grpc.StatusCode] = []
        self.opened = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        token = ""
        while not self.failures:
            call = self._users.WatchUsers(pb.WatchUsersRequest(resume_token=token))
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for answer in call:
                    token = answer.resume_token
                    self.opened.set()
                    if answer.HasField("user"):
                        self.seen.append(answer.user.user_id)
            if await call.code() not in self._codes:
                self.failures.append(await call.code())
            await asyncio.sleep(RECONNECT_SECONDS)


@dataclass
class Health:
    """Statuses of a service so far, and when each was received, on the monotonic clock."""

    statuses: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def since(self, status: int, moment: float) -> float | None:
        """Return when, at or after `moment`, the service was reported to have `status`; None if never."""
        past = [one for one, at in zip(self.statuses, self.times, strict=True) if at < moment]
        if past[-1:] == [status]:
            return moment
        later = zip(self.statuses[len(past) :], self.times[len(past) :], strict=True)
        return next((at for one, at in later if one == status), None)


@asynccontextmanager
async def health_of(channel: grpc.aio.Channel, name: str, *, resume: bool = False) -> AsyncIterator[Health]:
    """Watch the health of a service.

    Args:
        channel: Channel to its server.
        name: Name of the service, "" for all.
        resume: Watch again when a watch ends. The status UNKNOWN stands for its end.
    """
    health = Health()
    stub: Any = health_pb2_grpc.HealthStub(channel)

    def add(status: int) -> None:
        if health.statuses[-1:] != [status]:
            health.statuses.append(status)
            health.times.append(time.monotonic())

    async def follow() -> None:
        while True:
            call = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            try:
                while (answer := await call.read()) is not grpc.aio.EOF:
                    add(answer.status)
            except grpc.aio.AioRpcError:
                if not resume:
                    raise
            if not resume:
                return
            add(health_pb2.HealthCheckResponse.UNKNOWN)
            await asyncio.sleep(RECONNECT_SECONDS)

    task = asyncio.create_task(follow())
    try:
        await eventually(lambda: health.statuses or task.done())
        yield health
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
