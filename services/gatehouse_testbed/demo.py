"""Run the whole system on this machine: with a tour of it, or until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from gatehouse.app.policy import policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.cli import program_name
from gatehouse.runtime.files import write_json
from gatehouse_testbed.console import make_console, print_commands
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.processes import GatehouseProcess
from gatehouse_testbed.stack import Stack, run_stack
from gatehouse_testbed.stack_ports import Ports

T = TypeVar("T")


async def run_demo(started_at: float, *, realm: Path | None = None) -> bool | None:
    """Start the system on free ports, run the tour, and stop everything.

    Args:
        started_at: When the command started, on the monotonic clock.
        realm: Realm file of the issuer; the bundled one if None.

    Returns:
        Whether all checks of the tour passed; None if a signal ended the demo.

    Raises:
        TestbedError: A part does not start.
    """
    console = make_console()

    async def work() -> bool:
        async with _stack(console, started_at, None, realm) as stack:
            # Imported after the start of the processes, which takes longer.
            from gatehouse_testbed.tour.tour import Tour  # noqa: PLC0415

            tour = Tour(stack.profile, console, stack)
            passed = await tour.run()
        gatehouse = program_name()
        console.print()
        console.print("Demo finished; everything was stopped and removed. Next:")
        print_commands(
            console,
            [
                f"{gatehouse} demo --keep  # keep the system running and print commands to try",
                f"{gatehouse} policy  # print the access rule of every RPC",
                f"{gatehouse} --help",
            ],
        )
        return passed

    return await run_until_signal(work())


async def keep_running(
    started_at: float, *, realm: Path | None = None, free_ports: bool = False, ready_file: Path | None = None
) -> None:
    """Start the system on its default ports, fill the directory, and run until a signal.

    A part that exits is reported; SIGUSR1 starts it again.

    Args:
        started_at: When the command started, on the monotonic clock.
        realm: Realm file of the issuer; the bundled one if None.
        free_ports: Whether to use free ports instead.
        ready_file: Written when everything runs, and after each restart.

    Raises:
        TestbedError: A part does not start.
        OSError: The ready file cannot be written.
    """
    console = make_console()
    ports = Ports.free() if free_ports else Ports.default()
    pages: dict[str, str] = {}  # that people open
    # <part console>
    pages["console"] = f"http://{HOST}:{ports.others['console']}"
    # </part console>
    restart = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, restart.set)

    def announce(stack: Stack) -> None:
        if ready_file is not None:
            write_json(ready_file, _description(stack, pages))

    async def work() -> None:
        async with AsyncExitStack() as exits:
            stack = await exits.enter_async_context(_stack(console, started_at, ports, realm))
            # Imported after the start of the processes, which takes longer.
            from gatehouse_testbed.directory import seed_directory  # noqa: PLC0415

            # <part console>
            await exits.enter_async_context(_web_console(stack, ports.others["console"]))
            # </part console>
            await seed_directory(stack.profile)
            console.print()
            # <part console>
            with suppress(TestbedError):  # reported below; the system is usable without it
                await stack.processes["console"].ready()
                console.print("Open in a browser:")
                print_commands(console, [pages["console"]])
                console.print()
            # </part console>
            console.print("Paste into another terminal:")
            print_commands(console, _commands(stack))
            console.print()
            announce(stack)
            console.print(
                Text(f"Logs: {stack.folder}. Stop everything with Ctrl-C, or kill {os.getpid()}.", "dim")
            )
            await _watch(stack, console, restart, announce)

    await run_until_signal(work())
    console.print("Everything was stopped and removed.")


# <part console>
@asynccontextmanager
async def _web_console(stack: Stack, port: int) -> AsyncIterator[None]:
    settings = {"GATEHOUSE_PROFILE": str(stack.profile_file)}
    stack.processes["console"] = await GatehouseProcess.start(
        "console", ["console", "--port", str(port)], settings, stack.folder
    )
    try:
        yield
    finally:
        await stack.processes["console"].stop()  # `restart` has perhaps replaced it


# </part console>
async def _watch(
    stack: Stack, console: Console, restart: asyncio.Event, announce: Callable[[Stack], None]
) -> None:
    """Report each part that exits, and start those parts again when `restart` is set."""
    running = {name: asyncio.ensure_future(stack.exited(name)) for name in stack.pids}
    exited: list[str] = []
    while True:
        request = asyncio.ensure_future(restart.wait())
        done, _ = await asyncio.wait({request, *running.values()}, return_when=asyncio.FIRST_COMPLETED)
        request.cancel()
        for name in [name for name, waiting in running.items() if waiting in done]:
            console.print(Text(f"{running.pop(name).result()}"), soft_wrap=True)
            console.print(f"  start it again: kill -USR1 {os.getpid()}")
            exited.append(name)
        if restart.is_set():
            restart.clear()
            for name in [*exited]:
                try:
                    await stack.restart(name)
                except TestbedError as error:
                    console.print(Text(str(error)), soft_wrap=True)
                    continue
                console.print(f"{name} runs again")
                exited.remove(name)
                running[name] = asyncio.ensure_future(stack.exited(name))
            announce(stack)


def _description(stack: Stack, pages: Mapping[str, str]) -> Mapping[str, object]:
    """Return the content of the ready file."""
    return {
        "pid": os.getpid(),
        "profile": str(stack.profile_file),
        "issuer": stack.profile.issuer,
        **pages,
        "targets": dict(stack.profile.targets),
        "pids": dict(stack.pids),
    }


@asynccontextmanager
async def _stack(
    console: Console, started_at: float, ports: Ports | None, realm: Path | None
) -> AsyncIterator[Stack]:
    services = "one service" if len(SERVICES) == 1 else f"{len(SERVICES)} services"
    title = f"PostgreSQL, an OAuth2 issuer and {services} on this machine, one process each"
    console.print(Text("Gatehouse: ", "bold").append(title, "not bold dim"))

    def on_progress(name: str, text: str) -> None:
        console.print(Text(f"  {name:9}", "bold").append(text, "not bold"))

    async with run_stack(on_progress=on_progress, ports=ports, realm=realm) as stack:
        seconds = time.monotonic() - started_at
        console.print(Text(f"  all services SERVING after {seconds:.1f} s", "green"))
        yield stack


def _commands(stack: Stack) -> list[str]:
    folder, ca_file = shlex.quote(str(Path(sys.executable).parent)), shlex.quote(str(stack.profile.ca_file))
    new_user = '{"user": {"email": "new@example.test", "display_name": "New"}}'
    public = [f"gatehouse call {row.service} {row.method}" for row in policy_rows() if row.rule.public]
    return [
        f"export PATH={folder}:$PATH",
        f"export GATEHOUSE_PROFILE={shlex.quote(str(stack.profile_file))}",
        *public[:1],
        "gatehouse call users ListUsers --as alice --data '{\"page_size\": 3}'",
        f"gatehouse call users CreateUser --as bob --data '{new_user}'  # denied: bob lacks the scope",
        "gatehouse call users CountUsers --as alice  # prints the command that shows its trace",
        "gatehouse call users WatchUsers --as alice --limit 2 --timeout 60",
        "gatehouse token decode $(gatehouse token obtain --as bob --scope read:users)",
        f"(. {shlex.quote(str(stack.settings_file))}; gatehouse doctor)  # check what the services need",
        "gatehouse tour  # the tour of the demo, on this system",
        f"kill {stack.pids['users']}  # stop UserService; kill -USR1 {os.getpid()} starts it again",
        f"grpcurl -cacert {ca_file} {stack.profile.targets['users']} list  # if grpcurl is installed",
    ]


async def run_until_signal(work: Coroutine[object, object, T]) -> T | None:
    """Run a coroutine; SIGINT, SIGTERM and SIGHUP cancel it, and a second one cancels its cleanup.

    Returns:
        Its result; None if a signal ended it.
    """
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    # nohup ignores SIGHUP, so that the command survives its terminal.
    numbers = [
        n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN
    ]
    for number in numbers:
        loop.add_signal_handler(number, cancel, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return None
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
