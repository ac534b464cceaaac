"""What a fault is, what is guaranteed about it, and one trial of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.chaos.environment import Environment, Target
from tests.chaos.workload import CALL_SECONDS, WORKERS, Workload
from tests.support.eventually import eventually
from tests.support.load import NOT_SERVING, Outcome

# Calls of each kind that must end while the fault lasts, and again after the recovery.
CALLS = 5
# The longest time that any step of a fault takes before the fault is given up.
STEP_SECONDS = 60.0
ALL_CALLS = frozenset({"create_user", "get_user", "list_users", "count_users"})
UNAVAILABLE = frozenset({"UNAVAILABLE"})
TIMES_OUT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Guarantee:
    """A guarantee, what was measured, and whether it held.

    Attributes:
        timed: Whether it is a limit in seconds, which a busy machine can exceed.
    """

    text: str
    held: bool
    measured: str = ""
    timed: bool = False


@dataclass(frozen=True)
class Fault:
    """A fault, how it is injected, and what is guaranteed while it lasts.

    Attributes:
        name: Name on the command line.
        summary: What happens.
        inject: Injects the fault on entry and ends it on exit. It may add its own guarantees.
        target: Runs the processes that it is tried on; the UserService that runs all the time if None.
        codes: Codes with which calls may fail. Empty: no call may fail.
        affected: The calls that may fail; the others must go on.
        reasons: Reasons with which UNAVAILABLE calls may fail; any if empty.
        not_serving_within: Seconds within which health must report NOT_SERVING; None if it must not.
        stops: Whether processes are stopped, so that nothing is guaranteed about their health.
        retries: Whether all calls are made as clients make them, with retries; otherwise only the writes are.
        logs: Start of the lines of level error that are expected in the log.
        recovers_within: Seconds after the end of the fault within which calls must succeed and health must
            be SERVING; after that no call may fail.
        workers: Concurrent calls of each kind.
        quick: Whether `--quick` includes it.
        missing: Returns what the machine lacks to try it, such as a program; "" if nothing.
    """

    name: str
    summary: str
    inject: Callable[[Run], AbstractAsyncContextManager[None]]
    target: Callable[[Environment], AbstractAsyncContextManager[Target]] | None = None
    codes: frozenset[str] = frozenset()
    affected: frozenset[str] = ALL_CALLS
    reasons: frozenset[str] = frozenset()
    not_serving_within: float | None = None
    stops: bool = False
    retries: bool = False
    logs: str | None = None
    recovers_within: float = 2.0
    workers: int = WORKERS
    quick: bool = True
    missing: Callable[[], str] = lambda: ""


@dataclass
class Run:
    """One trial of a fault.

    Attributes:
        environment: The system.
        fault: The fault.
        target: The processes under load.
        work: The load.
        began: When the fault began, on the monotonic clock.
        ended: When it ended.
        recovered: When calls succeeded again.
        guarantees: Those checked so far.
    """

    environment: Environment
    fault: Fault
    target: Target
    work: Workload
    began: float = 0.0
    ended: float = 0.0
    recovered: float | None = None
    guarantees: list[Guarantee] = field(default_factory=list)

    def guarantee(self, text: str, held: bool, measured: object = "", *, timed: bool = False) -> None:
        """Record whether a guarantee held."""
        self.guarantees.append(Guarantee(text, held, str(measured), timed))

    async def until(self, condition: Callable[[], Any], seconds: float = STEP_SECONDS) -> bool:
        """Wait until a condition holds; return whether it did within `seconds`."""
        with contextlib.suppress(AssertionError, TimeoutError):
            async with asyncio.timeout(seconds + CALL_SECONDS):  # the condition may wait itself
                await eventually(condition, seconds, 0.01)
            return True
        return False

    async def calls(self, count: int = CALLS, *, succeed: bool = False) -> bool:
        """Wait until, from now on, `count` calls of each kind have ended; if `succeed`, with OK."""
        since, first = time.monotonic(), len(self.work.load.outcomes)

        def enough() -> bool:
            ended = Counter(
                o.call
                for o in self.work.load.outcomes[first:]
                if o.began >= since and (not succeed or o.code is grpc.StatusCode.OK)
            )
            return all(ended[name] >= count for name in self.work.load.names)

        return await self.until(enough)

    async def call_with(self, token: str) -> str:
        """Make one call with another token, on a new connection, and return the name of its code."""
        async with self.environment.bare_channel([self.target.port]) as channel:
            users: Any = users_pb2_grpc.UserServiceStub(channel)
            metadata = (("authorization", f"Bearer {token}"),)
            call = users.ListUsers(pb.ListUsersRequest(), metadata=metadata, timeout=CALL_SECONDS)
            return str((await call.code()).name)

    @property
    def failures(self) -> list[Outcome]:
        """Calls that failed."""
        return self.work.load.failures

    def detection(self) -> float | None:
        """Return the seconds until health was NOT_SERVING or a call failed; None if neither happened."""
        moments = [o.ended for o in self.failures if o.ended >= self.began][:1]
        moments += [m for m in [self.work.health.since(NOT_SERVING, self.began)] if m is not None]
        return min(moments) - self.began if moments else None


@dataclass(frozen=True)
class Row:
    """The result of one fault."""

    fault: str
    summary: str
    calls: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    detection: float | None = None
    recovery: float | None = None
    lost: int = 0
    doubled: int = 0
    guarantees: list[Guarantee] = field(default_factory=list)
    trials: int = 1
    skipped: str = ""

    @property
    def held(self) -> bool:
        """Whether every guarantee held."""
        return all(guarantee.held for guarantee in self.guarantees)
