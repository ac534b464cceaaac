"""Try faults on a running system under load, and check what is guaranteed about each; docs/reliability.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gatehouse_testbed.demo import run_until_signal
from gatehouse_testbed.environments import libpq_environment
from gatehouse_testbed.errors import TestbedError
from tests.chaos.environment import open_environment
from tests.chaos.faults import FAULTS
from tests.chaos.model import Row
from tests.chaos.report import HEADINGS, as_json, line, page, summary
from tests.chaos.run import try_fault

_EXAMPLES = """examples:
  make chaos                               all faults, about 5 minutes
  make chaos FAULT=postgres-killed         one fault
  make chaos QUICK=1                       without those that keep the CPU busy
  make chaos-record                        all faults, and write the table in docs/reliability.md
  .venv/bin/python -m tests.chaos --list   the names of the faults

Exits with 0 if every guarantee held, 1 if one was broken, 2 if the command line is invalid, 3 if the system
does not start, and 130 after Ctrl-C. A fault that this machine cannot try is skipped; the reason is printed.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fault", action="append", choices=FAULTS, metavar="NAME", help="try this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="leave out those that keep the CPU busy")
    parser.add_argument("--list", action="store_true", help="print the names of all faults and exit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE as JSON")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="replace the table of results in this page"
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="copy the logs of all processes there")
    return parser.parse_args(arguments)


async def try_faults(names: Sequence[str], logs: Path | None) -> list[Row]:
    """Run the system, try the faults on it one after the other, and print a row for each.

    Args:
        names: Names of the faults.
        logs: Folder for the logs of all processes; None to delete them.
    """
    rows = []
    async with open_environment(lambda text: print(text, file=sys.stderr, flush=True)) as environment:
        print(line(HEADINGS), flush=True)
        for name in names:
            row = await try_fault(environment, FAULTS[name])
            rows.append(row)
            print(line(row), flush=True)
        if logs is not None:
            _copy_logs(environment.stack.folder, logs)
    return rows


def _copy_logs(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, target)


def main(arguments: Sequence[str]) -> int:
    """Return the exit code."""
    options = parse(arguments)
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.name:30} {fault.summary}")
        return 0
    names = options.fault or [name for name, fault in FAULTS.items() if fault.quick or not options.quick]
    # libpq in this process connects to the embedded PostgreSQL only.
    clean = libpq_environment(os.environ)
    os.environ.clear()
    os.environ.update(clean)
    began = time.monotonic()
    try:
        rows = asyncio.run(run_until_signal(try_faults(names, options.logs)))
    except TestbedError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return error.exit_code
    if rows is None:
        print("chaos: interrupted; everything was stopped and removed", file=sys.stderr)
        return 130
    print(summary(rows, time.monotonic() - began))
    if options.json is not None:
        options.json.write_text(as_json(rows), encoding="utf-8")
    if options.record is not None:
        options.record.write_text(page(options.record.read_text(encoding="utf-8"), rows), encoding="utf-8")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
