"""Fuzz everything that parses: `python -m tools.fuzz [--seconds N] [--seed N] [TARGET ...]`; see tests/fuzz.

Prints a row for each target, and exits with 1 if an input was handled wrongly. The smallest such input is
written to tests/fuzz/corpus/, where the tests replay it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.inputs import variants
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).resolve().parent.parent / "tests/fuzz/corpus"
# CPU time that one input may take, in seconds: the slowest takes 0.1 s.
MAX_INPUT_SECONDS = 2.0
ROUND_INPUTS = 50
VARIANTS = 40


class SlowInputError(Exception):
    """An input took too much CPU time."""


class Fuzzer:
    """Fuzzes one target, and counts.

    Args:
        target: The target.
        seconds: How long; the round in progress is finished, and a failure is reduced.
        first_seed: Seed of the first round; the same seed gives the same inputs.
    """

    def __init__(self, target: Target, seconds: float, first_seed: int) -> None:
        self._target = target
        self._first_seed = first_seed
        self._ends = time.monotonic() + seconds
        self._failed = False
        self._last = b""
        self.inputs = 0
        self.slowest = 0.0

    def run(self) -> str:
        """Return what failed, or ""."""
        for number in range(sys.maxsize):
            if time.monotonic() >= self._ends:
                return ""
            try:
                self._round(self._first_seed + number)
            except Exception as error:  # noqa: BLE001 - any error is what is looked for
                return f"{type(error).__name__}: {error} in {self._keep()}"
        return ""

    def _round(self, round_seed: int) -> None:
        @seed(round_seed)
        @settings(
            max_examples=ROUND_INPUTS,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(self._target.inputs)
        def check(raw: bytes) -> None:
            if time.monotonic() < self._ends or self._failed:  # a failure is reduced
                self._check(raw)
                for variant in variants(raw, VARIANTS):
                    self._check(variant)

        check()

    def _check(self, raw: bytes) -> None:
        self.inputs += 1
        began = time.process_time()
        try:
            self._target.check(raw)
            taken = time.process_time() - began
            self.slowest = max(self.slowest, taken)
            if taken > MAX_INPUT_SECONDS:
                raise SlowInputError(f"{taken:.1f} s")
        except Exception:
            self._failed, self._last = True, raw
            raise

    def _keep(self) -> Path:
        path = CORPUS / self._target.name / f"found-{hashlib.sha256(self._last).hexdigest()[:12]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._last)
        return path.relative_to(CORPUS.parents[2])


def main(arguments: Sequence[str]) -> int:
    """Return 1 if an input was handled wrongly."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each target")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="for the same inputs as another run")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names of targets; all by default")
    given_arguments = parser.parse_args(arguments)
    wanted = given_arguments.targets or [target.name for target in TARGETS]
    unknown = set(wanted) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"unknown target {min(unknown)}; use {', '.join(target.name for target in TARGETS)}")
    print(f"{'target':14} {'inputs':>8} {'seconds':>8} {'slowest':>8}  failure", flush=True)
    failures = 0
    for target in TARGETS:
        if target.name in wanted:
            began = time.monotonic()
            fuzzer = Fuzzer(target, given_arguments.seconds, given_arguments.seed)
            failure = fuzzer.run()
            failures += bool(failure)
            seconds = time.monotonic() - began
            figures = f"{fuzzer.inputs:8} {seconds:8.1f} {fuzzer.slowest:8.3f}"
            print(f"{target.name:14} {figures}  {failure or 'none'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
