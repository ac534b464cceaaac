"""How the rate grows with the processes of one service, and what ends the growth on this machine."""

from __future__ import annotations

import statistics
from contextlib import AsyncExitStack

import psutil

from benchmarks.cases import OnProgress, Plan, Row, get_user, ratios
from benchmarks.environment import Environment
from benchmarks.load import Sample, apply_load
from benchmarks.processes import Process, run_process, seconds_to_serving, unpinned

PROCESSES = (1, 2, 4)


async def measure_scale(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Measure GetUser with 1, 2 and 4 processes that share a port; no process is pinned to a core.

    Args:
        bench: The environment.
        plan: How long to measure.
        on_progress: Called with messages about the progress.
    """
    samples: dict[int, list[Sample]] = {count: [] for count in PROCESSES}
    machine: dict[int, list[float]] = {count: [] for count in PROCESSES}
    metadata = [await bench.authorization()]
    with unpinned():
        async with AsyncExitStack() as stack:
            servers: dict[int, tuple[Process, int]] = {}
            for count in PROCESSES:
                process = await stack.enter_async_context(
                    run_process(
                        f"scale-{count}",
                        ["-m", "gatehouse", "serve", "users", "--workers", str(count)],
                        folder=bench.folder,
                        environment=bench.environment(),
                    )
                )
                servers[count] = process, process.ready["users"]
                await seconds_to_serving(*servers[count])
            for number in range(plan.rounds):
                start = number % len(PROCESSES)
                for count in (*PROCESSES[start:], *PROCESSES[:start]):
                    on_progress(f"Scale, round {number + 1} of {plan.rounds}: {count} processes")
                    psutil.cpu_percent()
                    sample = await apply_load(
                        *servers[count],
                        get_user(bench.rows),
                        metadata,
                        seconds=plan.seconds,
                        warm_up=plan.warm_up,
                    )
                    samples[count].append(sample)
                    machine[count].append(psutil.cpu_percent() / 100)
    return [_row(count, samples[count], samples[1], statistics.median(machine[count])) for count in PROCESSES]


def _row(count: int, samples: list[Sample], base: list[Sample], machine: float) -> Row:
    rate = statistics.median(sample.rate for sample in samples)
    ratio, cpu_ratio = ratios(samples, base) if count > 1 else (None, None)
    return Row(
        "Scale",
        f"{count} {'process' if count == 1 else 'processes'}; the machine {machine:.0%} busy",
        f"{rate:,.0f} calls/s",
        statistics.median(sample.cpu_microseconds for sample in samples),
        statistics.median(sample.busy for sample in samples),
        ratio,
        cpu_ratio,
    )
