"""Role mappings of a Keycloak realm over loopback HTTP: it keeps a journal, fails, hangs and goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Asked:
    """One request: method, path below the realm, headers, and JSON of the body."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: Any = None


@dataclass(frozen=True)
class Said:
    """An answer; `body` as JSON unless it is bytes; `hang_up` gives none at all."""

    status: int = 204
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False


Fault = Callable[[Asked], Awaitable[Said | None]]
REALM = "/admin/realms/test"


class LoopbackRealm:
    """Users by subject with their roles; `fault` may answer, or wait, before the realm does."""

    def __init__(self) -> None:
        self.port = 0
        self.roles = {"user": "id-of-user", "editor": "id-of-editor", "admin": "id-of-admin"}
        self.held: dict[str, set[str]] = {}
        self.journal: list[Asked] = []
        self.fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def admin_url(self) -> str:
        """Where the realm is."""
        return f"http://127.0.0.1:{self.port}{REALM}"

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Requests that change something: method, and the name of the role."""
        return [(a.method, a.body[0]["name"]) for a in self.journal if a.method != "GET"]

    def answer(self, said: Said, method: str = "") -> None:
        """Has requests (of `method`, if one is given) answered like this from now on."""

        async def fault(asked: Asked) -> Said | None:
            return said if method in {"", asked.method} else None

        self.fault = fault

    def _answer(self, asked: Asked) -> Said:
        parts = asked.path.split("/")
        if parts[:1] != ["users"] or parts[2:4] != ["role-mappings", "realm"]:
            return Said(404, {"error": "Unable to find matching target resource method"})
        held = self.held.get(parts[1])
        if held is None:
            return Said(404, {"error": "User not found"})
        if asked.method == "GET":
            names = set(self.roles) - held if parts[4:] == ["available"] else held
            return Said(200, [{"id": self.roles[n], "name": n} for n in sorted(names)])
        for role in asked.body:
            if self.roles.get(role["name"]) != role["id"]:
                return Said(404, {"error": "Role not found"})
            (held.add if asked.method == "POST" else held.discard)(role["name"])
        return Said()

    async def up(self) -> None:
        """Begins to listen, on the port that it had."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Ceases to listen and breaks off every connection."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await _read(reader)
                self.journal.append(asked)
                said = await self.fault(asked) if self.fault is not None else None
                said = said or self._answer(asked)
                if said.hang_up:
                    return
                await _write(writer, said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target.removeprefix(f"{REALM}/"), headers, json.loads(body) if body else None)


async def _write(writer: asyncio.StreamWriter, said: Said) -> None:
    body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **said.headers}
    lines = [f"HTTP/1.1 {said.status} Status", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


@asynccontextmanager
async def loopback_realm() -> AsyncIterator[LoopbackRealm]:
    """Runs a LoopbackRealm."""
    realm = LoopbackRealm()
    await realm.up()
    try:
        yield realm
    finally:
        await realm.down()


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackRealm]:
    """A running LoopbackRealm."""
    async with loopback_realm() as realm:
        yield realm
