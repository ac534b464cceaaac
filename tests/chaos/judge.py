"""Judge a trial by what the load, the health, the database and the logs say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from tests.chaos.model import ALL_CALLS, Run
from tests.support.load import NOT_SERVING, SERVING, Outcome


def judge_failures(run: Run) -> None:
    fault = run.fault
    during = [o for o in run.failures if run.recovered is None or o.began < run.recovered]
    if fault.codes:
        text = f"calls fail only with {' or '.join(sorted(fault.codes))}"
        _guarantee_none(run, text, [o for o in during if o.code.name not in fault.codes])
    else:
        _guarantee_none(run, "no call fails", during)
    if fault.codes and fault.affected != ALL_CALLS:
        text = f"{', '.join(sorted(ALL_CALLS - fault.affected))}: no call fails"
        _guarantee_none(run, text, [o for o in during if o.call not in fault.affected])
    if fault.reasons:
        text = f"UNAVAILABLE has the reason {' or '.join(sorted(fault.reasons))}"
        unavailable = [o for o in during if o.code is grpc.StatusCode.UNAVAILABLE]
        _guarantee_none(run, text, [o for o in unavailable if o.reason not in fault.reasons])
    if run.recovered is not None:
        after = [o for o in run.failures if o.began >= run.recovered]
        _guarantee_none(run, "no call fails after the recovery", after)


def _guarantee_none(run: Run, text: str, broken: Sequence[Outcome]) -> None:
    kinds = Counter(f"{o.call} {o.code.name} {o.reason or o.details[:80]}" for o in broken)
    run.guarantee(text, not broken, _counts(kinds))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name.strip()}" for name, count in counts.most_common(3))


def judge_health(run: Run) -> None:
    if run.fault.stops:
        return
    limit, health = run.fault.not_serving_within, run.work.health
    if limit is None:
        during = [s for s, at in zip(health.statuses, health.times, strict=True) if at >= run.began]
        run.guarantee("health stays SERVING", not during, during)
    else:
        changed = health.since(NOT_SERVING, run.began)
        held = changed is not None and changed - run.began <= limit
        measured = "never" if changed is None else f"{changed - run.began:.1f} s"
        run.guarantee(f"health is NOT_SERVING within {limit:g} s", held, measured, timed=True)
    statuses = run.work.liveness.statuses
    run.guarantee("liveness stays SERVING", statuses == [SERVING], statuses)


async def judge_writes(run: Run) -> tuple[int, int]:
    ledger, environment = run.work.ledger, run.environment
    lost, doubled = await ledger.lost(environment), await ledger.doubled(environment)
    run.guarantee("no acknowledged write is lost", not lost, lost)
    run.guarantee("no write is applied twice", not doubled, doubled)
    missing, repeated = await run.work.missing_in_watch()
    ended = run.work.watch.failures
    run.guarantee(
        "a watch that resumes gets every write once",
        not (missing or repeated),
        f"{missing} missing, {repeated} repeated{''.join(f'; ended with {code.name}' for code in ended)}",
    )
    return lost, doubled


def judge_log(run: Run, written: Mapping[Path, int]) -> None:
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
    run.guarantee("every line of the log is JSON", not foreign, foreign)
    run.guarantee("the log has no unexpected line of level error", not errors, _counts(errors))
