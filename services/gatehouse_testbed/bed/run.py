"""Run a test bed in this process: `gatehouse testbed`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import stat
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from gatehouse.runtime.files import write_json
from gatehouse.settings import environment
from gatehouse_testbed.bed.addresses import Addresses
from gatehouse_testbed.bed.bed import run_issuer_bed
from gatehouse_testbed.bed.control import create_control_app
from gatehouse_testbed.bed.messages import describe
from gatehouse_testbed.bed.service_log import ServiceLog
from gatehouse_testbed.files import realm_file
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.web import listen, serve_app


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a test bed.

    Attributes:
        realm: Realm file of the issuer; the bundled one if None.
        ready_file: Also gets the description.
        addresses: Where it listens.
        issuer_only: Whether to run the issuer without services.
    """

    realm: Path | None
    ready_file: Path | None
    addresses: Addresses
    issuer_only: bool


async def run_testbed(options: Options) -> int:
    """Run a test bed until SIGTERM or SIGINT, or until standard input ends if it is a pipe.

    Its description is written as one line of JSON to standard output.

    Raises:
        TestbedError: A part does not start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    _stop_at_end_of_input(loop, stopped)
    if options.ready_file is not None:
        # Whoever waits for the file must not find that of an earlier run.
        options.ready_file.unlink(missing_ok=True)
    running = asyncio.ensure_future(_run(options))
    stopping = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # Once, also if another signal follows: nothing interrupts the cleanup.
    running.cancel()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return 0


async def _run(options: Options) -> None:
    realm = load_realm(options.realm or realm_file(), environment())
    async with AsyncExitStack() as stack:
        output = os.dup(1)
        if options.issuer_only:
            bed = await stack.enter_async_context(run_issuer_bed(realm, options.addresses))
        else:
            # An issuer alone needs neither a database nor the services.
            from gatehouse_testbed.bed.database import run_database  # noqa: PLC0415
            from gatehouse_testbed.bed.database_cache import DatabaseCache, cache_folder  # noqa: PLC0415
            from gatehouse_testbed.run_folder import run_folder  # noqa: PLC0415

            folder = stack.enter_context(run_folder())
            sys.stdout.flush()
            log = ServiceLog(1)
            private = folder / "private"
            private.mkdir(mode=0o700)
            cache = DatabaseCache(cache_folder(environment()))
            database = await stack.enter_async_context(
                run_database(folder / "pg", private / "postgres.log", cache)
            )
            from gatehouse_testbed.bed.system import run_bed  # noqa: PLC0415 - see run_database

            bed = await stack.enter_async_context(run_bed(realm, private, options.addresses, database))
            bed.seen.log = log
        listener = listen(options.addresses.host, options.addresses.control)
        control_url = options.addresses.url(listener.getsockname()[1])
        await stack.enter_async_context(serve_app(create_control_app(bed, control_url), listener))
        document = describe(bed, control_url).model_dump()
        if options.ready_file is not None:
            write_json(options.ready_file, document)
            stack.callback(options.ready_file.unlink, missing_ok=True)
        gc.freeze()
        gc.enable()
        with os.fdopen(output, "w", encoding="utf-8") as stream:
            stream.write(f"{json.dumps(document)}\n")
        await asyncio.Event().wait()


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Stop when the program at the other end of the pipe closes it or ends, however that happens."""
    mode = os.fstat(0).st_mode
    # What Node calls a pipe is a socket.
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def wait() -> None:
        with contextlib.suppress(ConnectionResetError):
            while os.read(0, 4096):
                pass
        loop.call_soon_threadsafe(stopped.set)

    Thread(target=wait, daemon=True).start()
