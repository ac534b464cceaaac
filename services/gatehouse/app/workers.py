"""Run several processes that share the ports (SO_REUSEPORT), such as one for each core."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from structlog.typing import FilteringBoundLogger

from gatehouse.runtime import ServiceSpec
from gatehouse.settings import ConfigurationError, Settings, environment

_MAX_PORT = 65535


async def run_workers(
    settings: Settings,
    specs: Sequence[ServiceSpec[Any]],
    count: int,
    logger: FilteringBoundLogger,
    on_ready: Callable[[Mapping[str, object]], None],
) -> int:
    """Run `count` processes that serve `specs`, until a signal or until one of them ends.

    If a worker exits unexpectedly, the others are stopped too: the supervisor of this process restarts all.
    If this process is killed, the workers stop as after a signal.

    Args:
        settings: All settings. Worker n, from 0, publishes metrics on the configured port plus n.
        specs: Services to serve.
        count: Number of processes.
        logger: Logger of this process.
        on_ready: Called with the ports when all workers listen.

    Returns:
        0 if all workers stopped gracefully after a signal, otherwise 1.

    Raises:
        ConfigurationError: There are not enough ports for the metrics of all workers.
        OSError: A port is not available, or `on_ready` raised it.
    """
    if (settings.telemetry.metrics_port or 0) + count - 1 > _MAX_PORT:
        raise ConfigurationError(
            f"GATEHOUSE_TELEMETRY__METRICS_PORT: the {count} workers need a port each; set a lower one"
        )
    names = [spec.name for spec in specs]
    command = (sys.executable, "-m", "gatehouse", "serve", *names, "--worker-fd")
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(_reserve_port(settings.server.host, getattr(settings, name).port))
            for name in names
        }
        processes: list[asyncio.subprocess.Process] = []
        sockets: list[socket.socket] = []
        signals = stack.enter_context(_forward_signals(processes, sockets))
        for number in range(count):
            # A worker reports over it, because there may be no file system to write to, and sees whether this
            # process has ended.
            ours, theirs = socket.socketpair()
            ours.settimeout(0)
            sockets.append(stack.enter_context(ours))
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    env=_environment(settings, ports, number),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            processes.append(process)
            if signals:  # it arrived while this process was started
                _send(process, signal.SIGTERM)
                break
        logger.info("workers", pids=[process.pid for process in processes])
        waits = [asyncio.create_task(process.wait()) for process in processes]
        announcing = asyncio.create_task(_announce(sockets, ports, on_ready))
        if not signals:
            await _first_end(waits, announcing)
        stopped = bool(signals)
        if not stopped:
            for process in processes:
                _send(process, signal.SIGTERM)
        codes = await asyncio.gather(*waits)
        await announcing
        return 0 if stopped and not any(codes) else 1


async def _first_end(waits: Sequence[asyncio.Task[int]], announcing: asyncio.Task[None]) -> None:
    """Wait until a worker ends, or until the announcement of the ports fails."""
    done: set[asyncio.Task[Any]] = set()
    while not done.intersection(waits) and not (announcing in done and announcing.exception()):
        done, _ = await asyncio.wait(
            {task for task in (announcing, *waits) if not task.done()}, return_when=asyncio.FIRST_COMPLETED
        )


class Parent:
    """The parent process, as seen by a worker.

    Args:
        descriptor: The socket that `run_workers` has passed on.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.settimeout(0)

    def report_ready(self, ports: Mapping[str, object]) -> None:
        """Report that this worker listens."""
        self._socket.sendall(json.dumps(ports).encode())
        self._socket.shutdown(socket.SHUT_WR)

    async def wants_stop_at_once(self) -> bool:
        """Wait for the parent: return True if it wants the worker to stop at once, False if it has ended."""
        with suppress(ConnectionError):
            return bool(await asyncio.get_running_loop().sock_recv(self._socket, 1))
        return False


@contextmanager
def _reserve_port(host: str, port: int) -> Iterator[int]:
    """Bind a port for the workers, without listening on it, and return its number.

    Raises:
        OSError: Another program uses the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as first:
        # SO_REUSEPORT would let us share the port with the workers of another start, so it is not set yet.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind((host, port))
        except OSError:
            raise OSError(
                f"{host}:{port}: cannot listen; correct host or port, or stop what uses the port"
            ) from None
        port = int(first.getsockname()[1])
    with socket.socket(family) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
        yield port


def _environment(settings: Settings, ports: Mapping[str, int], number: int) -> dict[str, str]:
    variables = dict(environment())
    for name, port in ports.items():
        variables[f"GATEHOUSE_{name.upper()}__PORT"] = str(port)
    metrics = settings.telemetry.metrics_port
    if metrics:
        # A scrape must reach one particular worker, so each has its own port.
        variables["GATEHOUSE_TELEMETRY__METRICS_PORT"] = str(metrics + number)
    return variables


async def _announce(
    sockets: Sequence[socket.socket],
    ports: Mapping[str, int],
    on_ready: Callable[[Mapping[str, object]], None],
) -> None:
    reports = [await _read(each) for each in sockets]
    if all(reports):
        on_ready({**ports, "metrics": [json.loads(report)["metrics"] for report in reports]})


async def _read(worker: socket.socket) -> bytes:
    """Return what a worker wrote; nothing if it ended before it was ready."""
    report = b""
    while chunk := await asyncio.get_running_loop().sock_recv(worker, 4096):
        report += chunk
    return report


@contextmanager
def _forward_signals(
    processes: Sequence[asyncio.subprocess.Process], sockets: Sequence[socket.socket]
) -> Iterator[list[int]]:
    """Stop all processes at SIGTERM and SIGINT, at once at the second; return the signals received."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def forward(number: int) -> None:
        received.append(number)
        for process in processes:
            _send(process, number)
        for worker in sockets if len(received) > 1 else ():
            with suppress(OSError):  # it has ended
                worker.send(b"!")

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, forward, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        process.send_signal(number)
