"""Faults of clients: too many of them, slow ones, broken ones, and unknown ones."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.chaos.environment import Environment, Target
from tests.chaos.model import Fault, Run
from tests.chaos.strangers import PER_CONNECTION
from tests.chaos.workload import CALL_SECONDS
from tests.support.loopback_http import Reply, Request

ROOT = Path(__file__).resolve().parents[3]
JUNK = 300
WATCHES = 500
HALF_OPEN = 200
SLOW_READERS = 40
LIMIT = 10
_MEGABYTE = 1 << 20


@asynccontextmanager
async def _replica(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas() as target:
        yield target


@asynccontextmanager
async def _introspecting(environment: Environment) -> AsyncIterator[Target]:
    """Run a replica that introspects every token, at an issuer that takes 0.1 s to answer."""
    issuer = environment.issuer
    answer = issuer.handler("introspect")

    async def introspect(request: Request) -> Reply:
        await asyncio.sleep(0.1)
        reply = answer(request)
        assert isinstance(reply, Reply)
        return reply

    issuers = json.loads(environment.settings()["GATEHOUSE_ISSUERS"])
    issuers[-1]["mode"] = "introspection"
    issuer.answer("introspect", introspect)
    try:
        async with environment.replicas(GATEHOUSE_ISSUERS=json.dumps(issuers)) as target:
            yield target
    finally:
        issuer.answer("introspect", answer)


@asynccontextmanager
async def _junk(run: Run) -> AsyncIterator[None]:
    """Send unknown tokens all at once."""
    port, ca_file = run.target.port, run.environment.ca_file
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.strangers", str(port), str(ca_file), str(JUNK)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await process.communicate()
        codes = json.loads(out)
        refused = set(codes) <= {"UNAUTHENTICATED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        run.guarantee("every unknown token is refused", refused, codes)
        code = await run.call_with(run.environment.grant())
        run.guarantee("a new token is accepted after that", code == "OK", code)
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _watches(run: Run) -> AsyncIterator[None]:
    """Open many watches of users; all of them must get a change, and other calls must not become slow."""
    before = _median_seconds(run, 0.0)
    calls: list[Any] = []
    metadata = (("authorization", f"Bearer {run.work.tokens.value}"),)
    async with AsyncExitStack() as exits:
        for _ in range(WATCHES // PER_CONNECTION + 1):
            channel = await exits.enter_async_context(run.environment.bare_channel([run.target.port]))
            users: Any = users_pb2_grpc.UserServiceStub(channel)
            opening = min(PER_CONNECTION, WATCHES - len(calls))
            calls += [users.WatchUsers(pb.WatchUsersRequest(), metadata=metadata) for _ in range(opening)]

        async def change(call: Any) -> bool:
            async for answer in call:
                if answer.HasField("user"):
                    return True
            return False

        try:
            async with asyncio.timeout(60):
                seen = await asyncio.gather(*(change(call) for call in calls), return_exceptions=True)
        except TimeoutError:
            seen = []
        got = sum(one is True for one in seen)
        run.guarantee(f"all {WATCHES} watches get a change", got == WATCHES, got)
        since = time.monotonic()
        await run.calls(20)
        after = _median_seconds(run, since)
        measured = f"{1000 * before:.0f} ms, then {1000 * after:.0f} ms"
        run.guarantee(
            "the median call takes at most three times as long", after <= 3 * before, measured, timed=True
        )
        yield
        for call in calls:
            call.cancel()


def _median_seconds(run: Run, since: float) -> float:
    reads = [o for o in run.work.load.outcomes if o.call != "create_user" and o.began >= since]
    return statistics.median(o.ended - o.began for o in reads)


@asynccontextmanager
async def _slow_readers(run: Run) -> AsyncIterator[None]:
    """Look up many users on streams whose answers are not read."""
    process = psutil.Process(run.target.process.process.pid)
    before = process.memory_info().rss
    metadata = (("authorization", f"Bearer {run.work.tokens.value}"),)
    user_id = run.work.ledger.ids[0]
    async with run.environment.bare_channel([run.target.port]) as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        calls = [users.LookupUsers(metadata=metadata) for _ in range(SLOW_READERS)]

        async def keep_writing(call: Any) -> None:
            request = pb.LookupUsersRequest(user_id=user_id)
            for _ in range(2_000):
                await call.write(request)

        tasks = [asyncio.ensure_future(keep_writing(call)) for call in calls]
        try:
            await run.calls(20)
            grown = (process.memory_info().rss - before) / _MEGABYTE
            run.guarantee("the server grows by at most 64 MB", grown <= 64, f"{grown:.0f} MB")
            yield
        finally:
            for task, call in zip(tasks, calls, strict=True):
                task.cancel()
                call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _limited(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas(GATEHOUSE_SERVER__MAX_CONCURRENT_RPCS=str(LIMIT)) as target:
        yield target


@asynccontextmanager
async def _overload(run: Run) -> AsyncIterator[None]:
    """Send more calls at a time than the server allows."""
    metadata = (("authorization", f"Bearer {run.work.tokens.value}"),)
    codes: Counter[str] = Counter()
    async with run.environment.bare_channel([run.target.port]) as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)

        async def keep_calling() -> None:
            while True:
                call = users.CountUsers(pb.CountUsersRequest(), metadata=metadata, timeout=CALL_SECONDS)
                codes[(await call.code()).name] += 1

        tasks = [asyncio.ensure_future(keep_calling()) for _ in range(4 * LIMIT)]
        try:
            refused = await run.until(lambda: codes["RESOURCE_EXHAUSTED"] >= LIMIT)
            run.guarantee("calls beyond the limit are refused", refused, dict(codes))
            yield
            run.guarantee("others are answered", set(codes) == {"OK", "RESOURCE_EXHAUSTED"}, dict(codes))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _half_open(run: Run) -> AsyncIterator[None]:
    """Open connections and send nothing, not even the start of TLS."""
    opened = [await asyncio.open_connection("127.0.0.1", run.target.port) for _ in range(HALF_OPEN)]
    try:
        yield
    finally:
        for _, writer in opened:
            writer.close()


FAULTS = (
    Fault(
        "junk-tokens",
        f"someone sends {JUNK} unknown tokens at once, and each must be introspected",
        _junk,
        target=_introspecting,
        quick=False,
    ),
    Fault("watch-fan-out", f"{WATCHES} clients watch the users", _watches, target=_replica, quick=False),
    Fault(
        "slow-readers", f"{SLOW_READERS} streams do not read their answers", _slow_readers, target=_replica
    ),
    Fault(
        "overload",
        f"clients make four times as many calls at a time as the server allows, here {LIMIT}",
        _overload,
        target=_limited,
        codes=frozenset({"RESOURCE_EXHAUSTED"}),
    ),
    Fault("half-open", f"{HALF_OPEN} connections are opened and send nothing", _half_open, target=_replica),
)
