"""The clock of a service steps, with libfaketime (https://github.com/wolfcw/libfaketime)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.environment import Environment, Target
from tests.chaos.run import Fault, Run

_HOUR = 3600
_NOT_STEPPED = "+0"


def _library() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def _missing() -> str:
    return "" if _library() else "needs libfaketime (Debian: apt install libfaketime)"


def _offset_file(environment: Environment) -> Path:
    return environment.stack.folder / "clock"


@asynccontextmanager
async def _faked(environment: Environment) -> AsyncIterator[Target]:
    offset = _offset_file(environment)
    offset.write_text(_NOT_STEPPED)
    variables = {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with environment.replicas(**variables) as target:
        yield target


@asynccontextmanager
async def _stepped(run: Run, seconds: int) -> AsyncIterator[None]:
    offset = _offset_file(run.environment)
    offset.write_text(f"{seconds:+d}")
    try:
        yield
    finally:
        offset.write_text(_NOT_STEPPED)


@asynccontextmanager
async def _forward(run: Run) -> AsyncIterator[None]:
    async with _stepped(run, 2 * _HOUR):
        yield


@asynccontextmanager
async def _back(run: Run) -> AsyncIterator[None]:
    async with _stepped(run, -2 * _HOUR):
        yield


_REFUSED = frozenset({"UNAUTHENTICATED"})

FAULTS = (
    Fault(
        "clock-forward",
        "the clock of a replica steps two hours forward, so that every token has expired, and back",
        _forward,
        target=_faked,
        codes=_REFUSED,
        recovers_within=5.0,
        missing=_missing,
        quick=False,
    ),
    Fault(
        "clock-back",
        "the clock of a replica steps two hours back, so that every token is from the future, and forward",
        _back,
        target=_faked,
        codes=_REFUSED,
        recovers_within=5.0,
        missing=_missing,
        quick=False,
    ),
)
