"""The role mappings of Keycloak's admin API on a loopback HTTP server that can fail in any way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

REALM = "/admin/realms/test"


@dataclass(frozen=True)
class Request:
    """A request: method, path below the realm, headers, and the JSON of the body."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: Any = None


@dataclass(frozen=True)
class Response:
    """A response. `body` is sent as JSON unless it is bytes; `hang_up` closes the connection instead."""

    status: int = 204
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False


class FakeKeycloak:
    """A server with users, by subject, and their realm roles.

    Attributes:
        roles: Id of each role.
        user_roles: Roles of each user.
        requests: All requests so far.
        handler: Called first; may wait, or return a response in place of the server's own.
    """

    def __init__(self) -> None:
        self.roles = {"user": "id-of-user", "editor": "id-of-editor", "admin": "id-of-admin"}
        self.user_roles: dict[str, set[str]] = {}
        self.requests: list[Request] = []
        self.handler: Callable[[Request], Awaitable[Response | None]] | None = None
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def admin_url(self) -> str:
        """URL of the realm in the admin API."""
        return f"http://127.0.0.1:{self._port}{REALM}"

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Method and role of the requests that change something."""
        return [(r.method, r.body[0]["name"]) for r in self.requests if r.method != "GET"]

    def respond_with(self, response: Response, method: str = "") -> None:
        """Send `response` to all further requests, or to those with `method`."""

        async def handler(request: Request) -> Response | None:
            return response if method in {"", request.method} else None

        self.handler = handler

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Refuse new connections and close the present ones."""
        self.stop_listening()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _respond(self, request: Request) -> Response:
        parts = request.path.split("/")
        if parts[:1] != ["users"] or parts[2:4] != ["role-mappings", "realm"]:
            return Response(404, {"error": "Unable to find matching target resource method"})
        assigned = self.user_roles.get(parts[1])
        if assigned is None:
            return Response(404, {"error": "User not found"})
        if request.method == "GET":
            names = set(self.roles) - assigned if parts[4:] == ["available"] else assigned
            return Response(200, [{"id": self.roles[name], "name": name} for name in sorted(names)])
        for role in request.body:
            if self.roles.get(role["name"]) != role["id"]:
                return Response(404, {"error": "Role not found"})
            (assigned.add if request.method == "POST" else assigned.discard)(role["name"])
        return Response()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _read(reader)
                self.requests.append(request)
                response = await self.handler(request) if self.handler is not None else None
                response = response or self._respond(request)
                if response.hang_up:
                    return
                await _write(writer, response)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target.removeprefix(f"{REALM}/"), headers, json.loads(body) if body else None)


async def _write(writer: asyncio.StreamWriter, response: Response) -> None:
    body = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **response.headers}
    lines = [f"HTTP/1.1 {response.status} Status", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


@pytest.fixture
async def keycloak() -> AsyncIterator[FakeKeycloak]:
    """A running FakeKeycloak."""
    server = FakeKeycloak()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
