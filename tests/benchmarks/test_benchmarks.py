"""The harness of `make bench`: it measures and records everything, and checks every response."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from benchmarks.cases import ECHO
from benchmarks.client import caller
from benchmarks.environment import user_id
from benchmarks.load import WrongResponse, apply_load
from benchmarks.processes import BenchmarkError, Process, run_process
from benchmarks.servers import ECHO as ECHO_SERVICE
from gatehouse.users.v1 import users_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]


async def bench(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks", *arguments, cwd=ROOT, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(300):  # thirteen servers are started one after the other
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_every_measurement_is_made_and_recorded(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    arguments = ("--quick", "--rounds", "1", "--seconds", "0.2", "--rows", "1000", "--record", str(page))
    code, out, err = await bench(*arguments)
    assert code == 0, err
    lines = [line.split("  ")[0] for line in out.splitlines()]
    assert lines == [
        "measured",
        *["Echo"] * 6,
        *["GetUser"] * 6,
        *["ListUsers"] * 2,
        "Start",
        *["Memory"] * 2,
        *["Client"] * 2,
        *["Test bed"] * 6,
        *["Scale"] * 3,
    ]
    recorded = page.read_text()
    assert "python -m benchmarks --quick" in recorded
    assert "page 10 of 1,000 users" in recorded
    # Without a date, the page only changes where results change.
    assert not re.search(r"\b20\d\d-\d\d", recorded)


async def test_number_of_rounds_must_be_positive() -> None:
    code, out, err = await bench("--rounds", "0")
    assert (code, out) == (2, "")
    assert "--rounds: must be more than 0" in err


@asynccontextmanager
async def echoing(answer: Any) -> AsyncIterator[tuple[Process, int]]:
    """Serve `Echo` in this process with the handler `answer`."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.GetUserRequest.FromString, pb.GetUserRequest.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO_SERVICE, {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Process("echo", os.getpid(), Path(os.devnull), {}, time.perf_counter()), port
    finally:
        await server.stop(0)


async def test_correct_responses_are_counted() -> None:
    answered = 0

    async def right(request: pb.GetUserRequest, _: object) -> pb.GetUserRequest:
        nonlocal answered
        answered += 1
        return request

    async with echoing(right) as (process, port):
        sample = await apply_load(process, port, ECHO, (), seconds=0.2, warm_up=0.05)
    assert 0 < sample.calls <= sample.all_calls == answered


async def test_wrong_response_fails_the_measurement() -> None:
    answered = 0

    async def wrong_once(request: pb.GetUserRequest, _: object) -> pb.GetUserRequest:
        nonlocal answered
        answered += 1
        return pb.GetUserRequest(user_id="another") if answered == 50 else request

    async with echoing(wrong_once) as (process, port):
        with pytest.raises(WrongResponse, match="wrong response to request"):
            await apply_load(process, port, ECHO, (), seconds=60, warm_up=0)


async def test_error_fails_the_measurement() -> None:
    async def refuse(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    async with echoing(refuse) as (process, port):
        with pytest.raises(WrongResponse, match="UNAVAILABLE: down"):
            await apply_load(process, port, ECHO, (), seconds=60, warm_up=0)


async def test_wrong_response_and_error_fail_the_measurement_of_clients() -> None:
    async def answer(request: pb.GetUserRequest, context: Any) -> pb.GetUserRequest:
        if request.user_id == user_id(1):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        return pb.GetUserRequest(user_id=user_id(2))

    async with echoing(answer) as (_, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = caller(channel, ())
            await asyncio.to_thread(call, 2)
            for number, reason in ((0, "wrong response to request 0"), (1, "UNAVAILABLE: down")):
                with pytest.raises(WrongResponse, match=reason):
                    await asyncio.to_thread(call, number)


async def test_server_that_does_not_start_is_an_error_with_its_last_output(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="broken: did not start; last line of its output: no reason"):
        async with run_process("broken", ["-c", "raise SystemExit('no reason')"], folder=tmp_path):
            pass
