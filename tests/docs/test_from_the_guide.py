"""The examples of docs/from-the-guide.md work: each client on each server."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from gatehouse.settings import IssuerSettings
from tests.support.issuer import SECRETS, LiveIssuer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-the-guide.md"
CLIENT = "gatehouse-worker"


def examples() -> list[dict[str, Any]]:
    """Return the names that each example defines: the synchronous one, then the asyncio one."""
    found = []
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        names: dict[str, Any] = {"__name__": "example"}
        exec(compile(code, PAGE.name, "exec"), names)
        found.append(names)
    return found


SYNC, ASYNCIO = examples()


async def call_both(issuer: LiveIssuer, port: int) -> list[str]:
    """Call a server with the client of each example, and return the subjects of the responses."""
    arguments = (issuer.issuer, CLIENT, SECRETS[CLIENT], f"127.0.0.1:{port}")
    return [await asyncio.to_thread(SYNC["call"], *arguments), await ASYNCIO["call"](*arguments)]


@pytest.fixture
def settings(issuer: LiveIssuer) -> IssuerSettings:
    """How the servers verify tokens: by introspection, as in the guide."""
    return IssuerSettings.model_validate(
        {
            "issuer": issuer.issuer,
            "audience": "gatehouse-api",
            "mode": "introspection",
            "client_id": "gatehouse-api",
            "client_secret": SECRETS["gatehouse-api"],
        }
    )


async def test_both_clients_call_the_synchronous_server(issuer: LiveIssuer, settings: IssuerSettings) -> None:
    loop, started, done = asyncio.get_running_loop(), asyncio.Queue[int](), threading.Event()

    def until_stopped(port: int) -> None:
        loop.call_soon_threadsafe(started.put_nowait, port)
        done.wait()

    serving = asyncio.create_task(asyncio.to_thread(SYNC["serve"], settings, until_stopped))
    try:
        assert await call_both(issuer, await started.get()) == [CLIENT, CLIENT]
    finally:
        done.set()
        await serving


async def test_both_clients_call_the_asyncio_server(issuer: LiveIssuer, settings: IssuerSettings) -> None:
    subjects: list[str] = []

    async def until_stopped(port: int) -> None:
        subjects.extend(await call_both(issuer, port))

    await ASYNCIO["serve"](settings, until_stopped)
    assert subjects == [CLIENT, CLIENT]
