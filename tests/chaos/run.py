"""Try one fault: inject it under load, wait for the detection, end it, wait for the recovery, and judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.chaos.environment import Environment, Target
from tests.chaos.workload import CALL_SECONDS, WORKERS, Workload, open_workload
from tests.support.eventually import eventually
from tests.support.load import NOT_SERVING, SERVING, Outcome

# Calls of each kind that must end while the fault lasts, and again after the recovery.
CALLS = 5
# The longest time that any step of a fault takes before the fault is given up.
STEP_SECONDS = 60.0
# A fault may go unnoticed by calls, for example if a connection is replaced before its next use.
FAILURE_SECONDS = 5.0
FAULT_SECONDS = 300.0
ALL_CALLS = frozenset({"create_user", "get_user", "list_users", "count_users"})
UNAVAILABLE = frozenset({"UNAVAILABLE"})
TIMES_OUT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Promise:
    """What was promised, what was measured, and whether the promise was kept."""

    text: str
    kept: bool
    measured: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault, how it is injected, and what is promised while it lasts.

    Attributes:
        name: Name on the command line.
        summary: What happens.
        inject: Injects the fault on entry and ends it on exit. It may make promises of its own.
        target: Runs the processes that it is tried on; the UserService that runs all the time if None.
        codes: Codes with which calls may fail. Empty: no call may fail.
        affected: The calls that may fail; the others must go on.
        reasons: Reasons with which UNAVAILABLE calls may fail; any if empty.
        not_serving_within: Seconds within which health must report NOT_SERVING; None if it must not.
        stops: Whether processes are stopped, so that nothing is promised about their health.
        retries: Whether all calls are made as clients make them, with retries; otherwise only the writes are.
        logs: Start of the lines of level error that are expected in the log.
        recovers_within: Seconds after the end of the fault within which calls must succeed and health must
            be SERVING; after that no call may fail.
        workers: Concurrent calls of each kind.
        quick: Whether it is one of those of `--quick`.
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
        promises: Those judged so far.
    """

    environment: Environment
    fault: Fault
    target: Target
    work: Workload
    began: float = 0.0
    ended: float = 0.0
    recovered: float | None = None
    promises: list[Promise] = field(default_factory=list)

    def promise(self, text: str, kept: bool, measured: object = "") -> None:
        """Record whether a promise was kept."""
        self.promises.append(Promise(text, kept, str(measured)))

    async def until(self, condition: Callable[[], Any], seconds: float = STEP_SECONDS) -> bool:
        """Wait until a condition holds; return whether it did within `seconds`."""
        with contextlib.suppress(AssertionError):
            await eventually(condition, seconds, 0.01)
            return True
        return False

    async def calls(self, count: int = CALLS, *, succeed: bool = False) -> bool:
        """Wait until, from now on, `count` calls of each kind have ended; if `succeed`, with OK."""
        since = time.monotonic()

        def enough() -> bool:
            ended = Counter(
                o.call
                for o in self.work.load.outcomes
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
    promises: list[Promise] = field(default_factory=list)
    skipped: str = ""

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(promise.kept for promise in self.promises)


async def try_fault(environment: Environment, fault: Fault) -> Row:
    """Try a fault and judge its promises."""
    missing = fault.missing()
    if missing:
        return Row(fault.name, fault.summary, skipped=missing)
    try:
        async with asyncio.timeout(FAULT_SECONDS):
            return await _try(environment, fault)
    except Exception as error:  # noqa: BLE001 - the other faults are tried all the same
        broken = Promise("the trial ends", kept=False, measured=repr(error))
        return Row(fault.name, fault.summary, promises=[broken])


@asynccontextmanager
async def _shared(environment: Environment) -> AsyncIterator[Target]:
    yield environment.users


async def _try(environment: Environment, fault: Fault) -> Row:
    opened = fault.target(environment) if fault.target is not None else _shared(environment)
    async with opened as target:
        written = {process.log: process.log.stat().st_size for process in target.processes.values()}
        async with open_workload(environment, target, fault.workers, retries=fault.retries) as work:
            run = Run(environment, fault, target, work)
            async with work.load:
                await run.until(lambda: work.health.statuses[-1:] == [SERVING])
                healthy = await run.calls(succeed=True)
                run.promise("calls succeed before the fault", kept=healthy and not run.failures)
                run.began = time.monotonic()
                async with fault.inject(run):
                    if fault.not_serving_within is not None:
                        await run.until(lambda: work.health.since(NOT_SERVING, run.began), 30)
                    if fault.codes:
                        await run.until(lambda: run.failures, FAILURE_SECONDS)
                    await run.calls()
                run.ended = time.monotonic()
                await _recover(run)
            await work.settle()
            _judge_failures(run)
            _judge_health(run)
            lost, doubled = await _judge_writes(run)
    _judge_log(run, written)
    outcomes = work.load.outcomes
    return Row(
        fault.name,
        fault.summary,
        calls=len(outcomes),
        failures=dict(Counter(o.code.name for o in run.failures)),
        detection=run.detection(),
        recovery=None if run.recovered is None else run.recovered - run.ended,
        lost=lost,
        doubled=doubled,
        promises=run.promises,
    )


async def _recover(run: Run) -> None:
    """Wait until health is SERVING and each kind of call has succeeded, then for some more calls."""

    def recovered() -> bool:
        load = run.work.load
        return run.work.health.statuses[-1] == SERVING and load.successes(run.ended) == load.names

    limit = run.fault.recovers_within
    if await run.until(recovered):
        run.recovered = time.monotonic()
        seconds = run.recovered - run.ended
        run.promise(f"calls succeed within {limit:g} s after the fault", seconds <= limit, f"{seconds:.1f} s")
        await run.calls()
    else:
        run.promise(f"calls succeed within {limit:g} s after the fault", kept=False, measured="never")


def _judge_failures(run: Run) -> None:
    fault = run.fault
    during = [o for o in run.failures if run.recovered is None or o.began < run.recovered]
    if fault.codes:
        text = f"calls fail only with {' or '.join(sorted(fault.codes))}"
        _promise_none(run, text, [o for o in during if o.code.name not in fault.codes])
    else:
        _promise_none(run, "no call fails", during)
    if fault.codes and fault.affected != ALL_CALLS:
        text = f"{', '.join(sorted(ALL_CALLS - fault.affected))}: no call fails"
        _promise_none(run, text, [o for o in during if o.call not in fault.affected])
    if fault.reasons:
        text = f"UNAVAILABLE has the reason {' or '.join(sorted(fault.reasons))}"
        unavailable = [o for o in during if o.code is grpc.StatusCode.UNAVAILABLE]
        _promise_none(run, text, [o for o in unavailable if o.reason not in fault.reasons])
    if run.recovered is not None:
        after = [o for o in run.failures if o.began >= run.recovered]
        _promise_none(run, "no call fails after the recovery", after)


def _promise_none(run: Run, text: str, broken: Sequence[Outcome]) -> None:
    kinds = Counter(f"{o.call} {o.code.name} {o.reason or o.details[:80]}" for o in broken)
    run.promise(text, not broken, _counts(kinds))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name.strip()}" for name, count in counts.most_common(3))


def _judge_health(run: Run) -> None:
    if run.fault.stops:
        return
    limit, health = run.fault.not_serving_within, run.work.health
    if limit is None:
        during = [s for s, at in zip(health.statuses, health.times, strict=True) if at >= run.began]
        run.promise("health stays SERVING", not during, during)
    else:
        changed = health.since(NOT_SERVING, run.began)
        kept = changed is not None and changed - run.began <= limit
        measured = "never" if changed is None else f"{changed - run.began:.1f} s"
        run.promise(f"health is NOT_SERVING within {limit:g} s", kept, measured)
    statuses = run.work.liveness.statuses
    run.promise("liveness stays SERVING", statuses == [SERVING], statuses)


async def _judge_writes(run: Run) -> tuple[int, int]:
    ledger, environment = run.work.ledger, run.environment
    lost, doubled = await ledger.lost(environment), await ledger.doubled(environment)
    run.promise("no acknowledged write is lost", not lost, lost)
    run.promise("no write is made twice", not doubled, doubled)
    missing, repeated = await run.work.missing_in_watch()
    run.promise(
        "a watch that resumes gets every write once",
        not (missing or repeated),
        f"{missing} missing, {repeated} repeated",
    )
    return lost, doubled


def _judge_log(run: Run, written: Mapping[Path, int]) -> None:
    """Check what the processes have logged since the fault began."""
    foreign, errors = 0, Counter[str]()
    for process in run.target.processes.values():
        raw = process.log.read_bytes()[written.get(process.log, 0) :]
        for line in raw.decode(errors="replace").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                foreign += 1
                continue
            event, expected = str(content.get("event")), run.fault.logs
            if content.get("level") == "error" and not (expected and event.startswith(expected)):
                errors[f"{event[:80]} {content.get('error_type', content.get('reason', ''))}"] += 1
    run.promise("every line of the log is JSON", not foreign, foreign)
    run.promise("the log has no unexpected line of level error", not errors, _counts(errors))
