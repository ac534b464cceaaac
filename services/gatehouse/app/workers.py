"""Several processes behind one port (SO_REUSEPORT): one for each core."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from gatehouse.runtime import ServiceSpec
from gatehouse.runtime.files import write_json
from gatehouse.settings import Settings, environment

_READY_POLL_SECONDS = 0.05


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Holds a port for the workers, without listening on it, and gives its number.

    Raises:
        OSError: Another program has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as first:
        # Workers of another start would let this one in; the port must be free before it is shared.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind((host, port))
        except OSError:
            raise OSError(f"{host}:{port}: cannot listen; another process may use the port") from None
        port = int(first.getsockname()[1])
    with socket.socket(family) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
        yield port


def _environment(settings: Settings, ports: Mapping[str, int], number: int) -> dict[str, str]:
    found = dict(environment())
    for name, port in ports.items():
        found[f"GATEHOUSE_{name.upper()}__PORT"] = str(port)
    metrics = settings.telemetry.metrics_port
    if metrics:
        # A scrape must reach one certain worker, so each has a port of its own.
        found["GATEHOUSE_TELEMETRY__METRICS_PORT"] = str(metrics + number)
    return found


async def run_workers(
    settings: Settings,
    specs: Sequence[ServiceSpec[Any]],
    count: int,
    logger: FilteringBoundLogger,
    ready_file: Path | None = None,
) -> int:
    """Runs `count` processes that serve `specs` until a signal, or until one ends by itself.

    A worker that ends by itself takes the others with it: whoever runs this process starts it anew.

    Args:
        settings: All settings; the metrics of worker n, from 0, are on the port that is set, plus n.
        specs: Services to serve.
        count: Number of processes.
        logger: Gets a line with their ids.
        ready_file: Written, as JSON, with the ports once all workers listen.

    Returns:
        0 when all ended well, 1 otherwise.

    Raises:
        OSError: A port is taken.
    """
    names = [spec.name for spec in specs]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-")))
        ports = {
            name: stack.enter_context(_reserved(settings.server.host, getattr(settings, name).port))
            for name in names
        }
        files = [folder / f"{number}.json" for number in range(count)]
        command = (sys.executable, "-m", "gatehouse", "serve", *names, "--share-ports", "--ready-file")
        processes = [
            await asyncio.create_subprocess_exec(
                *command, str(file), env=_environment(settings, ports, number), start_new_session=True
            )
            for number, file in enumerate(files)
        ]
        logger.info("workers", pids=[process.pid for process in processes])
        telling = asyncio.create_task(_tell_ready(files, ports, ready_file))
        try:
            return await _until_ended(processes)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell_ready(files: Sequence[Path], ports: Mapping[str, int], ready_file: Path | None) -> None:
    if ready_file is None:
        return
    while not all(file.exists() for file in files):  # noqa: ASYNC110 - another process makes no event here
        await asyncio.sleep(_READY_POLL_SECONDS)
    metrics = [json.loads(file.read_text(encoding="utf-8"))["metrics"] for file in files]
    write_json(ready_file, {**ports, "metrics": metrics})


async def _until_ended(processes: Sequence[asyncio.subprocess.Process]) -> int:
    loop = asyncio.get_running_loop()
    signals: list[int] = []

    def pass_on(number: int) -> None:
        signals.append(number)
        for process in processes:
            if process.returncode is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pass_on, number)
    waits = [asyncio.ensure_future(process.wait()) for process in processes]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not signals:
        # Only then: a second signal would cut short those that are still draining.
        pass_on(signal.SIGTERM)
    codes = await asyncio.gather(*waits)
    return 0 if signals and all(code == 0 for code in codes) else 1
