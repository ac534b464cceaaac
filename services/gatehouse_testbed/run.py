"""What the commands run: the demo, the system that stays up, the tour, the picture of a trace."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import TypeVar

import httpx
from rich.console import Console
from rich.text import Text

from gatehouse.client.profile import Profile
from gatehouse.settings import ConfigurationError
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.stack import Ports, Stack, run_stack
from gatehouse_testbed.tracing.query import check_trace_id, until_trace
from gatehouse_testbed.tracing.show import commands, make_console, save_svg, trace_view
from gatehouse_testbed.tracing.spans import Span, tree

TRACE_WAIT_SECONDS = 5.0
T = TypeVar("T")


async def run_demo(
    *, began: float, realm: Path | None = None, svg: Path | None = None, trace_svg: Path | None = None
) -> bool | None:
    """Brings the system up on free ports, runs the tour on it, and takes it down.

    Args:
        began: When the command began, on the monotonic clock.
        realm: Realm file of the issuer; the repository's when None.
        svg: Where to save what was shown.
        trace_svg: Where to save the trace alone.

    Returns:
        Whether everything was as promised; None when a signal ended it before.

    Raises:
        DemoError: A part does not start.
    """
    console = make_console(record=svg is not None)

    async def work() -> bool:
        async with _running(console, None, realm, began) as stack:
            from gatehouse_testbed.tour.tour import Tour  # noqa: PLC0415 - after the start of what takes longest

            tour = Tour(stack.profile, console, stack)
            good = await tour.run()
        console.print()
        console.print("Everything has been stopped and removed. To look around yourself:")
        commands(
            console,
            [
                "make serve  # keeps the same system running, and prints commands for it",
                "gatehouse policy  # what each RPC demands",
                "gatehouse --help",
            ],
        )
        if svg is not None:
            save_svg(console, svg, "gatehouse demo")
        if trace_svg is not None and tour.spans:
            _save_trace(tour.spans, trace_svg, "gatehouse trace ID")
        return good

    return await _until_signal(work())


async def keep_running(*, began: float, realm: Path | None = None, free_ports: bool = False) -> bool:
    """Brings the system up on its usual ports, with users in it, and keeps it up until a signal.

    Args:
        began: When the command began, on the monotonic clock.
        realm: Realm file of the issuer; the repository's when None.
        free_ports: Whether to take ports that are free instead.

    Returns:
        Whether it was a signal that ended it.

    Raises:
        DemoError: A part does not start, or ended by itself.
    """
    console = make_console()

    async def work() -> bool:
        async with _running(console, None if free_ports else Ports.default(), realm, began) as stack:
            from gatehouse_testbed.tour.tour import fill  # noqa: PLC0415 - likewise

            await fill(stack.profile)
            console.print()
            console.print("Paste into another terminal:")
            commands(console, _commands(stack))
            console.print()
            console.print(Text(f"Logs: {stack.folder}. Ctrl-C ends everything.", "dim"))
            raise DemoError(await stack.first_end())

    await _until_signal(work())
    console.print("Everything has been stopped and removed.")
    return True


async def run_tour(profile: Profile, *, svg: Path | None = None) -> bool | None:
    """Runs the tour on a system that is up.

    Args:
        profile: The system.
        svg: Where to save what was shown.

    Returns:
        Whether everything was as promised; None when a signal ended it before.

    Raises:
        DemoError: The tour cannot begin.
    """
    from gatehouse_testbed.tour.tour import Tour  # noqa: PLC0415 - likewise

    console = make_console(record=svg is not None)
    good = await _until_signal(Tour(profile, console).run())
    if svg is not None and good is not None:
        save_svg(console, svg, "gatehouse tour")
    return good


async def show_trace(trace_id: str, traces_url: str | None, svg: Path | None = None) -> None:
    """Draws a trace.

    Args:
        trace_id: Up to 32 hexadecimal digits.
        traces_url: A server of Jaeger's query API.
        svg: Where to save the picture too.

    Raises:
        ConfigurationError: It is no trace id, or no server is known.
        DemoError: There is no such trace, or no such server.
    """
    wanted = check_trace_id(trace_id)
    if traces_url is None:
        raise ConfigurationError(
            "no server of traces is known: name one with --url http://127.0.0.1:16686, or in `traces_url` of "
            "the file that GATEHOUSE_PROFILE names"
        )
    async with httpx.AsyncClient(trust_env=False) as http:
        spans = await until_trace(http, traces_url, wanted, seconds=TRACE_WAIT_SECONDS)
    make_console().print(trace_view(tree(spans)))
    if svg is not None:
        _save_trace(spans, svg, f"gatehouse trace {wanted}")


def _save_trace(spans: Sequence[Span], svg: Path, title: str) -> None:
    console = make_console(StringIO(), record=True)
    console.print(trace_view(tree(spans)))
    save_svg(console, svg, title)


@asynccontextmanager
async def _running(
    console: Console, ports: Ports | None, realm: Path | None, began: float
) -> AsyncIterator[Stack]:
    console.print(
        Text("Gatehouse ", "bold").append(
            "on this machine: PostgreSQL, an OAuth2 issuer and three services, each a process of its own",
            "not bold dim",
        )
    )

    def tell(name: str, text: str) -> None:
        console.print(Text(f"  {name:9}", "bold").append(text, "not bold"))

    async with run_stack(tell=tell, ports=ports, realm=realm, began=began) as stack:
        console.print(Text(f"  everything SERVING after {stack.seconds:.1f} s", "green"))
        yield stack


def _commands(stack: Stack) -> list[str]:
    folder, ca_file = shlex.quote(str(Path(sys.executable).parent)), shlex.quote(str(stack.profile.ca_file))
    target = next(iter(stack.profile.targets.values()))
    new = '{"user": {"email": "new@example.test", "display_name": "New"}}'
    return [
        f"export PATH={folder}:$PATH",
        f"export GATEHOUSE_PROFILE={shlex.quote(str(stack.profile_file))}",
        "gatehouse call public GetPublicInfo",
        "gatehouse call users ListUsers --as alice --data '{\"page_size\": 3}'",
        f"gatehouse call users CreateUser --as bob --data '{new}'  # refused, and why",
        "gatehouse call admin GetStats --as alice  # says how to see its trace",
        "gatehouse call users WatchUsers --as alice --limit 2 --timeout 60",
        "gatehouse token decode $(gatehouse token obtain --as bob --scope read:users)",
        "gatehouse tour  # all of it, on this system",
        f"grpcurl -cacert {ca_file} {target} list  # if you have it",
    ]


async def _until_signal(work: Coroutine[object, object, T]) -> T | None:
    """Runs something until it is done, or until a signal cancels it; a second one hurries its end.

    Returns:
        Its result; None when a signal ended it.
    """
    task = asyncio.ensure_future(work)
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    # Whoever lets a command outlive its terminal has ignored SIGHUP.
    wanted = [
        n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN
    ]
    for number in wanted:
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not came:
            raise
        return None
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)
