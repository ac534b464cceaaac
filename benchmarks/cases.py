"""The measurements: echo, GetUser, paging, start and memory. Servers take turns, round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx

from benchmarks.environment import Environment, Sink, create_time, email, open_sink, user_id
from benchmarks.load import Caller, Sample, Workload, apply_load, open_channel
from benchmarks.processes import BenchmarkError, Process, run_process, seconds_to_serving
from benchmarks.servers import ECHO_PATH, GET_USER_PATH
from gatehouse.runtime.grpc_tuning import select_listener
from gatehouse.storage import write_page_token
from gatehouse.users.v1 import users_pb2 as pb

LIST_USERS_PATH = "/gatehouse.users.v1.UserService/ListUsers"
PAGE_SIZE = 100
MOST_PAGES = 10_000
OnProgress = Callable[[str], None]

ECHO = Workload(
    path=ECHO_PATH,
    request=lambda n: pb.GetUserRequest(user_id=user_id(n)),
    answer=pb.GetUserRequest,
    is_correct=lambda n, answer: answer.user_id == user_id(n),
    numbers=1_000_000,
)


def get_user(rows: int) -> Workload:
    """Return the workload that gets random users."""
    return Workload(
        path=GET_USER_PATH,
        request=lambda n: pb.GetUserRequest(user_id=user_id(n)),
        answer=pb.User,
        is_correct=lambda n, answer: (answer.user_id, answer.email) == (user_id(n), email(n)),
        numbers=rows,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Number of rounds; each server is measured once per round.
        seconds: Measured time in a round.
        warm_up: Seconds of load before the measured time.
        pages: Number of requests for each page.
        starts: Number of starts of a service.
        calls: Number of calls before the memory of a service is measured again.
    """

    rounds: int = 7
    seconds: float = 3.0
    warm_up: float = 0.5
    pages: int = 200
    starts: int = 5
    calls: int = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        case: What was measured.
        server: Which server, or page.
        value: Median, with its unit.
        cpu: Median of the server's CPU time for one call, in microseconds.
        busy: Median of the share of its core that the server used.
        ratio: Median of the ratios to the first line of the case, round by round.
        cpu_ratio: The same for CPU time: that of the first line over that of this one.
        bound: Bound of the ratio, such as `>= 0.75`, or of a value without ratio; "" if there is none.
        held: Whether it is within its bound.
    """

    case: str
    server: str
    value: str
    cpu: float | None = None
    busy: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    bound: str = ""
    held: bool | None = None


@dataclass
class Runner:
    """A server that takes turns with others.

    Attributes:
        label: Its name in the table.
        process: Its process.
        port: Its port.
        sink: Receiver of its spans; None for a bare server.
        sample_ratio: Fraction of calls that are traced.
        floor: Lower bound of its ratio.
        samples: One for each round.
    """

    label: str
    process: Process
    port: int
    sink: Sink | None = None
    sample_ratio: float = 0.0
    floor: float | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Number of calls that it has answered."""
        return sum(sample.all_calls for sample in self.samples)


async def _take_turns(
    case: str,
    runners: Sequence[Runner],
    workload: Workload,
    bench: Environment,
    plan: Plan,
    on_progress: OnProgress,
) -> None:
    """Measure each server once per round; the first one changes with the round."""
    metadata = [await bench.authorization()]
    for number in range(plan.rounds):
        start = number % len(runners)
        for runner in [*runners[start:], *runners[:start]]:
            on_progress(f"{case}, round {number + 1} of {plan.rounds}: {runner.label}")
            sample = await apply_load(
                runner.process,
                runner.port,
                workload,
                metadata,
                seconds=plan.seconds,
                warm_up=plan.warm_up,
            )
            runner.samples.append(sample)


def ratios(samples: Sequence[Sample], base: Sequence[Sample]) -> tuple[float, float]:
    """Return the median ratios of the rates and of the CPU times of `samples` and `base`."""
    pairs = list(zip(samples, base, strict=True))
    return (
        statistics.median(s.rate / b.rate for s, b in pairs),
        statistics.median(b.cpu_microseconds / s.cpu_microseconds for s, b in pairs),
    )


def _rows(case: str, runners: Sequence[Runner]) -> list[Row]:
    """Return the rows of a case: each server compared with the first, and the last ones with the second."""
    bare, tuned, *whole = runners
    rows = []
    for runner in runners:
        samples = runner.samples
        compared = runner is not bare
        ratio, cpu_ratio = ratios(samples, bare.samples)
        rows.append(
            Row(
                case,
                runner.label,
                f"{statistics.median(s.rate for s in samples):,.0f} calls/s",
                statistics.median(s.cpu_microseconds for s in samples),
                statistics.median(s.busy for s in samples),
                ratio if compared else None,
                cpu_ratio if compared else None,
                f">= {runner.floor:.2f}" if runner.floor is not None else "",
                ratio >= runner.floor if runner.floor is not None else None,
            )
        )
    for runner in whole:
        ratio, cpu_ratio = ratios(runner.samples, tuned.samples)
        rows.append(
            Row(case, f"{runner.label}, against the tuned bare server", "", None, None, ratio, cpu_ratio)
        )
    return rows


@asynccontextmanager
async def _whole(
    bench: Environment,
    name: str,
    arguments: Sequence[str],
    method: str,
    sample_ratio: float,
    floor: float | None,
) -> AsyncIterator[Runner]:
    """Run a server with logs, metrics and traces, and check at the end that it wrote all of them."""
    label = (
        "everything on, every span" if sample_ratio == 1 else f"everything on, {sample_ratio:.0%} of spans"
    )
    async with open_sink() as sink:
        environment = bench.environment(sink, sample_ratio)
        select_listener(environment)
        async with run_process(
            name, arguments, folder=bench.folder, environment=environment, core=bench.server_core
        ) as process:
            port = process.ready.get("users") or process.ready["port"]
            await seconds_to_serving(process, port)
            runner = Runner(label, process, port, sink, sample_ratio, floor)
            yield runner
            counted = await _counted(process.ready["metrics"], method, runner.calls)
        _require_all(process.name, "calls in its metrics", counted, runner.calls)
        _require_all(process.name, "lines in its log", _lines(process, method), runner.calls)
        if sample_ratio == 1:
            _require_all(process.name, "spans at the receiver", sink.server_spans, runner.calls)


def _require_all(name: str, what: str, found: int, calls: int) -> None:
    """Raise BenchmarkError unless each call was counted."""
    if found != calls:
        raise BenchmarkError(f"{name}: {found} {what} for {calls} calls, so not everything was on")


async def _counted(port: int, method: str, expected: int) -> int:
    """Return how many calls the metrics of a server have counted; the last ones may take a moment."""
    counted = -1
    ends_at = time.perf_counter() + 1
    async with httpx.AsyncClient(trust_env=False) as http:
        while counted != expected and time.perf_counter() < ends_at:
            page = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            counted = sum(
                round(float(line.rsplit(" ", 1)[1]))
                for line in page.splitlines()
                if line.startswith("rpc_server_call_duration_seconds_count") and f'"{method}"' in line
            )
    return counted


def _lines(process: Process, method: str) -> int:
    with process.log.open("rb") as lines:
        return sum(b'"event":"rpc"' in line and method.encode() in line for line in lines)


async def measure_echo(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Compare an echo through the whole interceptor chain with a bare echo."""
    module = ["-m", "benchmarks.servers"]
    return await _measure_against(
        "Echo", "bare-echo", [*module, "chain-echo"], ECHO, (None, 0.88), bench, plan, on_progress
    )


async def measure_get_user(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Compare GetUser of `gatehouse serve users` with a bare handler that runs one query."""
    whole = ["-m", "gatehouse", "serve", "users"]
    return await _measure_against(
        "GetUser", "bare-users", whole, get_user(bench.rows), (None, 0.85), bench, plan, on_progress
    )


async def _measure_against(
    case: str,
    bare: str,
    whole: Sequence[str],
    workload: Workload,
    floors: tuple[float | None, float | None],
    bench: Environment,
    plan: Plan,
    on_progress: OnProgress,
) -> list[Row]:
    method = workload.path[1:]
    async with AsyncExitStack() as stack:
        runners = []
        plain, tuned = bench.environment(), bench.environment()
        select_listener(tuned)
        for label, name, environment in (
            ("bare grpc.aio, uvloop", bare, plain),
            ("the same, gRPC tuned", f"{bare}-tuned", tuned),
        ):
            process = await stack.enter_async_context(
                run_process(
                    name,
                    ["-m", "benchmarks.servers", name],
                    folder=bench.folder,
                    environment=environment,
                    core=bench.server_core,
                )
            )
            runners.append(Runner(label, process, process.ready["port"]))
        for ratio, floor in zip((1.0, 0.01), floors, strict=True):
            runners.append(
                await stack.enter_async_context(
                    _whole(bench, f"{case.lower()}-{ratio:g}", whole, method, ratio, floor)
                )
            )
        await _take_turns(case, runners, workload, bench, plan, on_progress)
    return _rows(case, runners)


async def measure_paging(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Compare the first page of ListUsers with the last, one call at a time."""
    last = min(MOST_PAGES, bench.rows // PAGE_SIZE)
    environment = bench.environment()
    async with run_process(
        "paging",
        ["-m", "gatehouse", "serve", "users"],
        folder=bench.folder,
        environment=environment,
        core=bench.server_core,
    ) as process:
        port = process.ready["users"]
        await seconds_to_serving(process, port)
        async with open_channel(port) as channel:
            metadata = [await bench.authorization()]
            callers = [(page, Caller(channel, _list_users(page), metadata)) for page in (1, last)]
            on_progress(f"ListUsers, page 1 and page {last:,} in turn, {plan.pages} times")
            seconds = await _alternate(callers, plan.pages)
    first, other = (statistics.median(seconds[page]) for page in (1, last))
    ratio = other / first
    label = partial("page {:,} of {:,} users".format)
    return [
        Row("ListUsers", label(1, bench.rows), f"{first * 1000:.2f} ms"),
        Row(
            "ListUsers",
            label(last, bench.rows),
            f"{other * 1000:.2f} ms",
            ratio=ratio,
            bound="<= 1.20",
            held=ratio <= 1.2,
        ),
    ]


async def _alternate(callers: Sequence[tuple[int, Caller]], times: int) -> dict[int, list[float]]:
    """Make the calls in turn; return the seconds of each, without the warm-up."""
    seconds: dict[int, list[float]] = {page: [] for page, _ in callers}
    warm_up = 10
    for turn in range(times + warm_up):
        for page, caller in callers:
            began = time.perf_counter()
            await caller(0)
            if turn >= warm_up:
                seconds[page].append(time.perf_counter() - began)
    return seconds


def _list_users(page: int) -> Workload:
    """Return the workload that lists one page and checks its users."""
    first = (page - 1) * PAGE_SIZE
    token = ""
    if first:
        token = write_page_token("\ncreate_time ", (create_time(first - 1), user_id(first - 1)))
    request = pb.ListUsersRequest(page_size=PAGE_SIZE, page_token=token)
    expected = [user_id(n) for n in range(first, first + PAGE_SIZE)]
    return Workload(
        path=LIST_USERS_PATH,
        request=lambda _: request,
        answer=pb.ListUsersResponse,
        is_correct=lambda _, answer: [user.user_id for user in answer.users] == expected,
        numbers=1,
    )


async def measure_start(bench: Environment, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Measure the time from the command to SERVING, and the resident memory, of one service."""
    seconds, started, called = [], [], []
    for number in range(plan.starts):
        on_progress(f"start to SERVING, {number + 1} of {plan.starts}")
        async with run_process(
            "start",
            ["-m", "gatehouse", "serve", "users"],
            folder=bench.folder,
            environment=bench.environment(),
            core=bench.server_core,
        ) as process:
            port = process.ready["users"]
            seconds.append(await seconds_to_serving(process, port))
            started.append(process.resident_bytes())
            await _call(process, port, bench, plan.calls)
            called.append(process.resident_bytes())
    label = "gatehouse serve users, {}".format
    return [
        Row("Start", label("to SERVING"), f"{statistics.median(seconds):.2f} s"),
        Row("Memory", label("started"), f"{statistics.median(started) / 1e6:.0f} MB"),
        Row("Memory", label(f"after {plan.calls:,} calls"), f"{statistics.median(called) / 1e6:.0f} MB"),
    ]


async def _call(process: Process, port: int, bench: Environment, calls: int) -> None:
    """Make at least `calls` GetUser calls."""
    metadata = [await bench.authorization()]
    while calls > 0:
        sample = await apply_load(process, port, get_user(bench.rows), metadata, seconds=0.5, warm_up=0.1)
        calls -= sample.all_calls


CASES = {
    "echo": measure_echo,
    "get-user": measure_get_user,
    "paging": measure_paging,
    "start": measure_start,
}
