"""Try one fault: inject it under load, wait for the detection, end it, wait for the recovery, and judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.chaos.environment import Environment, Target
from tests.chaos.judge import judge_failures, judge_health, judge_log, judge_writes
from tests.chaos.model import Fault, Guarantee, Row, Run
from tests.chaos.workload import open_workload
from tests.support.load import NOT_SERVING, SERVING

# A fault may go unnoticed by calls, for example if a connection is replaced before its next use.
FAILURE_SECONDS = 5.0
FAULT_SECONDS = 300.0
TRIALS = 3


async def try_fault(environment: Environment, fault: Fault) -> Row:
    """Try a fault and judge its guarantees; see `repeat`."""
    missing = fault.missing()
    if missing:
        return Row(fault.name, fault.summary, skipped=missing)
    return await repeat(lambda: _try_once(environment, fault))


async def repeat(trial: Callable[[], Awaitable[Row]]) -> Row:
    """Return the result of the first trial that exceeds no limit in seconds, at most of trial TRIALS.

    Other programs may have held the machine busy. Any other broken guarantee is final.
    """
    trials = 1
    while True:
        row = await trial()
        broken = [guarantee for guarantee in row.guarantees if not guarantee.held]
        if not broken or trials == TRIALS or not all(guarantee.timed for guarantee in broken):
            return replace(row, trials=trials)
        trials += 1


async def _try_once(environment: Environment, fault: Fault) -> Row:
    try:
        async with asyncio.timeout(FAULT_SECONDS):
            return await _try(environment, fault)
    except Exception as error:  # noqa: BLE001 - the other faults are tried all the same
        broken = Guarantee("the trial ends", held=False, measured=repr(error))
        return Row(fault.name, fault.summary, guarantees=[broken])


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
                run.guarantee("calls succeed before the fault", held=healthy and not run.failures)
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
            judge_failures(run)
            judge_health(run)
            lost, doubled = await judge_writes(run)
    judge_log(run, written)
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
        guarantees=run.guarantees,
    )


async def _recover(run: Run) -> None:
    """Wait until health is SERVING and each kind of call has succeeded, then for some more calls."""

    def recovered() -> bool:
        load = run.work.load
        return run.work.health.statuses[-1] == SERVING and load.successes(run.ended) == load.names

    limit = run.fault.recovers_within
    text = f"calls succeed within {limit:g} s after the fault"
    if await run.until(recovered):
        run.recovered = time.monotonic()
        seconds = run.recovered - run.ended
        run.guarantee(text, seconds <= limit, f"{seconds:.1f} s", timed=True)
        await run.calls()
    else:
        run.guarantee(text, held=False, measured="never")
