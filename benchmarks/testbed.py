"""The measurement of the test bed: how long its user waits, and its memory. It uses all cores."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.cases import OnProgress, Plan, Row
from benchmarks.environment import Environment
from benchmarks.processes import BenchmarkError, unpinned
from gatehouse_testbed.bed.client import Testbed, run_testbed

SUITE = Path(__file__).resolve().parents[1] / "examples/testbed/python"
# The suite has 9 tests.
_REPETITIONS = 6
_RESETS = 20


async def measure_testbed(_: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Measure starts, resets, a suite of tests and the memory of the test bed."""
    return await asyncio.to_thread(_measure, plan, on_progress)


def _measure(plan: Plan, on_progress: OnProgress) -> list[Row]:
    warm, alone, resets, memory = [], [], [], []
    with unpinned(), _empty_cache():
        on_progress("test bed, cold start")
        with _started() as (_, cold):
            pass
        for number in range(plan.starts):
            on_progress(f"test bed, warm start {number + 1} of {plan.starts}")
            with _started() as (testbed, seconds):
                warm.append(seconds)
                memory.append(_resident_bytes())
                resets += [_reset(testbed) for _ in range(_RESETS)]
            with _started("--issuer-only") as (_, seconds):
                alone.append(seconds)
        on_progress("test bed, tests of a client")
        tests, suite = _run_suite()
    return [
        _row("cold start of all services", cold, 6),
        _row("warm start of all services", statistics.median(warm), 2),
        _row("start of the issuer alone", statistics.median(alone), 0.5),
        _row("reset", statistics.median(resets) * 1000, 20, "ms"),
        _row(f"{tests} tests of a client, with the start", suite, 5),
        _row("memory of all processes", statistics.median(memory) / 1e6, 350, "MB"),
    ]


def _row(what: str, value: float, bound: float, unit: str = "s") -> Row:
    shown = f"{value:.2f} {unit}" if unit == "s" else f"{value:.0f} {unit}"
    return Row("Test bed", what, shown, bound=f"<= {bound:g} {unit}", held=value <= bound)


@contextmanager
def _started(*arguments: str) -> Iterator[tuple[Testbed, float]]:
    """Run a test bed; yield it and the seconds until all its services were SERVING."""
    began = time.perf_counter()
    with run_testbed(*arguments) as testbed:
        yield testbed, time.perf_counter() - began


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Keep databases in a new folder, so that the first start is cold and the others are warm."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _resident_bytes() -> int:
    """Return the memory of all processes of the running test bed; shared pages count once, on Linux."""
    running = [p for p in psutil.Process().children() if "testbed" in p.cmdline()]
    below = [child for process in running for child in process.children(recursive=True)]
    sizes = (process.memory_full_info() for process in [*running, *below])
    return sum(getattr(size, "pss", size.uss) for size in sizes)


def _reset(testbed: Testbed) -> float:
    began = time.perf_counter()
    testbed.reset()
    return time.perf_counter() - began


def _run_suite() -> tuple[int, float]:
    """Run the tests of the example; return their number and the seconds that pytest took."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_REPETITIONS):
            shutil.copy(SUITE / "test_client.py", Path(folder, f"test_client_{number}.py"))
        shutil.copy(SUITE / "client.py", folder)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    if done.returncode != 0 or passed is None:
        raise BenchmarkError(
            f"the tests of the example failed: {done.stdout.rstrip().rpartition(chr(10))[2]}"
        )
    return int(passed[1]), seconds
