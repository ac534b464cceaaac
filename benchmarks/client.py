"""The measurement of clients: calls through `create_oauth2_channel`, and the same with a static header."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import httpx

from benchmarks.cases import ECHO, OnProgress, Plan, Row, ratios
from benchmarks.environment import WORKER, Environment
from benchmarks.load import DEADLINE_SECONDS, Sample, WrongResponse
from benchmarks.processes import run_process
from gatehouse.background import BackgroundLoop
from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    OAuthClient,
    TokenManager,
    create_oauth2_channel,
)
from gatehouse.oauth import open_http
from gatehouse.settings import TlsSettings

Call = Callable[[int], None]


async def measure_client(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Compare synchronous calls, one at a time, with and without a token source."""
    name = "bare-echo-tuned"
    async with run_process(
        name,
        ["-m", "benchmarks.servers", name],
        folder=bench.folder,
        environment=bench.environment(),
        core=bench.server_core,
    ) as process:
        target, header = f"127.0.0.1:{process.ready['port']}", await bench.authorization()
        return await asyncio.to_thread(_compare, target, header, bench.issuer, plan, on_progress)


def _compare(
    target: str, header: tuple[str, str], issuer: str, plan: Plan, on_progress: OnProgress
) -> list[Row]:
    with ExitStack() as stack:
        background = stack.enter_context(BackgroundLoop())
        http = background.run(_open_http())
        stack.callback(lambda: background.run(http.aclose()))
        client = OAuthClient(http, WORKER[0], ClientSecretBasic(WORKER[1]), issuer=issuer)
        tokens = TokenManager(ClientCredentials(client, "read:users"))
        bare = stack.enter_context(grpc.insecure_channel(target))
        authorized = stack.enter_context(
            create_oauth2_channel(target, tokens, background=background, tls=TlsSettings(plaintext=True))
        )
        calls = {
            "static header": caller(bare, (header,)),
            "create_oauth2_channel": caller(authorized, ()),
        }
        samples: dict[str, list[Sample]] = {label: [] for label in calls}
        for number in range(plan.rounds):
            order = list(calls) if number % 2 == 0 else list(reversed(calls))
            for label in order:
                on_progress(f"Client, round {number + 1} of {plan.rounds}: {label}")
                samples[label].append(_sample(calls[label], plan))
    (bare_label, base), (label, other) = samples.items()
    return [_row(bare_label, base), _row(label, other, *ratios(other, base))]


async def _open_http() -> httpx.AsyncClient:
    return open_http()


def caller(channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> Call:
    """Return a function that makes call number n of the echo and checks its response."""
    stub: Any = channel.unary_unary(
        ECHO.path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=ECHO.answer.FromString,
    )

    def call(number: int) -> None:
        try:
            answer = stub(ECHO.request(number), metadata=tuple(metadata), timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise WrongResponse(f"{ECHO.path}: {error.code().name}: {error.details()}") from None
        if not ECHO.is_correct(number, answer):
            raise WrongResponse(f"{ECHO.path}: wrong response to request {number}")

    return call


def _sample(call: Call, plan: Plan) -> Sample:
    """Make calls one after the other; the CPU time is that of this process."""
    warm_up, measured = _call_for(call, plan.warm_up, 0), time.process_time()
    began = time.perf_counter()
    calls = _call_for(call, plan.seconds, warm_up)
    return Sample(calls, time.perf_counter() - began, time.process_time() - measured, warm_up + calls)


def _call_for(call: Call, seconds: float, first: int) -> int:
    """Return the number of calls that were made within `seconds`, at least one."""
    number, ends_at = first, time.perf_counter() + seconds
    while True:
        call(number)
        number += 1
        if time.perf_counter() >= ends_at:
            return number - first


def _row(
    label: str, samples: Sequence[Sample], ratio: float | None = None, cpu_ratio: float | None = None
) -> Row:
    return Row(
        "Client",
        label,
        f"{statistics.median(s.rate for s in samples):,.0f} calls/s",
        statistics.median(s.cpu_microseconds for s in samples),
        ratio=ratio,
        cpu_ratio=cpu_ratio,
    )
