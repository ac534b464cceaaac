"""`python -m benchmarks`: measure, print the table and, if asked to, record it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.cases import CASES as SERVER_CASES
from benchmarks.cases import Plan, Row
from benchmarks.client import measure_client
from benchmarks.environment import open_environment
from benchmarks.processes import BenchmarkError, cores, pinned
from benchmarks.report import page, plain, table
from benchmarks.scale import measure_scale
from benchmarks.testbed import measure_testbed
from gatehouse_testbed.environments import libpq_environment

CASES = SERVER_CASES | {"client": measure_client, "testbed": measure_testbed, "scale": measure_scale}
QUICK = Plan(rounds=3, seconds=1.0, warm_up=0.3, pages=50, starts=2, calls=1_000)
_EXAMPLES = """examples:
  make bench                                    everything
  make bench-record                             the same, and write RESULTS.md
  python -m benchmarks --quick                  two minutes less, nothing is recorded
  python -m benchmarks --only echo --rounds 15  one measurement, for longer
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", choices=CASES, action="append", help="this measurement; may be repeated")
    parser.add_argument("--rounds", type=int, help="number of rounds")
    parser.add_argument("--seconds", type=float, help="measured time of each server in a round")
    parser.add_argument("--rows", type=int, help="users in the database (a million; with --quick 100,000)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the table there, as Markdown")
    read = parser.parse_args(arguments)
    for name in ("rounds", "seconds", "rows"):
        value = getattr(read, name)
        if value is not None and value <= 0:
            parser.error(f"--{name}: must be more than 0")
    return read


def plan_of(read: argparse.Namespace) -> Plan:
    """Return the plan for the options of the command line."""
    base = QUICK if read.quick else Plan()
    rounds, seconds = read.rounds or base.rounds, read.seconds or base.seconds
    return Plan(
        rounds=rounds,
        seconds=seconds,
        warm_up=min(base.warm_up, seconds),
        pages=base.pages,
        starts=min(base.starts, rounds),
        calls=base.calls,
    )


async def measure(
    names: Sequence[str], plan: Plan, rows: int, on_progress: Callable[[str], None]
) -> list[Row]:
    """Run the measurements, with the servers on one core and everything else on another.

    Args:
        names: Some of CASES.
        plan: How long to measure.
        rows: Number of users in the database.
        on_progress: Called with messages about the progress.

    Raises:
        BenchmarkError: A response was wrong, or a server did not log, count or trace every call.
    """
    found = cores()
    if found is None:
        on_progress("processes cannot be pinned to cores on this machine, so the results are not reliable")
    server_core, load_core = found or (None, None)
    with pinned(load_core):
        on_progress(f"PostgreSQL with {rows:,} users, and the issuer")
        async with open_environment(rows, server_core) as bench:
            return [row for name in names for row in await CASES[name](bench, plan, on_progress)]


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if everything was measured, whatever the results are."""
    read = parse(arguments)
    names = read.only or list(CASES)
    rows = read.rows or (100_000 if read.quick else 1_000_000)
    # PostgreSQL is started, and filled, in this process.
    clean = libpq_environment(os.environ)
    os.environ.clear()
    os.environ.update(clean)
    console, progress = Console(), Console(stderr=True)
    try:
        if progress.is_terminal:
            with progress.status("starting") as status:
                measured = uvloop.run(measure(names, plan_of(read), rows, status.update))
        else:
            measured = uvloop.run(measure(names, plan_of(read), rows, progress.out))
    except BenchmarkError as error:
        progress.out(f"benchmarks: {error}")
        return 1
    if console.is_terminal:
        console.print(table(measured))
    else:
        console.out(plain(measured))
    if read.record is not None:
        command = " ".join(["python -m benchmarks", *arguments])
        read.record.write_text(page(measured, command), encoding="utf-8")
        progress.out(f"written: {read.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
