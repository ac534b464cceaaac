"""Several processes behind one port (SO_REUSEPORT): one for each core."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger


async def run_workers(arguments: Sequence[str], count: int, logger: FilteringBoundLogger) -> int:
    """Runs `count` processes of `gatehouse ARGUMENTS` until a signal, or until one ends by itself.

    A worker that ends takes the others with it: whoever runs this process starts it anew.

    Returns:
        0 when all ended well, 1 otherwise.
    """
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "gatehouse", *arguments)
        for _ in range(count)
    ]
    logger.info("workers", pids=[process.pid for process in processes])
    loop = asyncio.get_running_loop()

    def pass_on(number: int) -> None:
        for process in processes:
            if process.returncode is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pass_on, number)
    waits = [asyncio.ensure_future(process.wait()) for process in processes]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    pass_on(signal.SIGTERM)
    codes = await asyncio.gather(*waits)
    return 0 if all(code == 0 for code in codes) else 1
