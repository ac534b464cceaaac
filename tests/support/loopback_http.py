"""An HTTP server on loopback whose endpoints a test can replace, delay, break and take down."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus


@dataclass(frozen=True)
class Request:
    """A request. `path` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(default=b"", repr=False)
    query: str = ""

    @property
    def form(self) -> dict[str, str]:
        """Its body as a form."""
        return dict(parse_qsl(self.content.decode(), keep_blank_values=True))

    @property
    def json(self) -> Any:
        """Its body as JSON."""
        return json.loads(self.content)

    @property
    def basic(self) -> tuple[str, str]:
        """Client id and secret of the Basic credentials (RFC 6749 section 2.3.1)."""
        scheme, _, value = self.headers["authorization"].partition(" ")
        assert scheme == "Basic"
        client, _, secret = base64.b64decode(value).decode().partition(":")
        return unquote_plus(client), unquote_plus(secret)


@dataclass
class Reply:
    """A response, good or broken.

    Attributes:
        body: Sent as JSON unless it is bytes.
        status: Status code.
        headers: Added to the common headers, or replace them.
        hang_up: Close the connection instead of responding.
        stream: Send these chunks instead of `body`.
        raw: Send these bytes instead of an HTTP response.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    stream: AsyncGenerator[bytes] | None = None
    raw: bytes | None = None


Handler = Callable[[Request], Reply | Awaitable[Reply]]


class LoopbackServer:
    """An HTTP server. Endpoints are named by their path, relative to `base_path` unless it starts with `/`.

    Attributes:
        requests: All requests so far.
        handlers: Handler of each endpoint, by absolute path.
        tls: Certificate to serve https with, None for http.
        host: Host in its URLs; names other than those of loopback can be reached through a proxy only.
        answers_per_connection: Close a connection when one more request arrives on it.
    """

    base_path = ""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.handlers: dict[str, Handler] = {}
        self.tls: ssl.SSLContext | None = None
        self.host = "127.0.0.1"
        self.answers_per_connection: int | None = None
        self._counts: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Event] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        """URL of `base_path`."""
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}{self.base_path}"

    def url(self, name: str) -> str:
        """Return the URL of the endpoint `name`."""
        return f"{self.base_url}/{name}"

    def handler(self, name: str) -> Handler:
        """Return the present handler of the endpoint `name`."""
        return self.handlers[self._path(name)]

    def answer(self, name: str, reply: Reply | Handler) -> None:
        """Answer further requests to the endpoint `name` with `reply`."""
        self.handlers[self._path(name)] = (lambda _: reply) if isinstance(reply, Reply) else reply

    def hold(self, name: str) -> None:
        """Let further requests to the endpoint `name` wait for `release`."""
        self._gates[self._path(name)] = asyncio.Event()

    def release(self, name: str) -> None:
        """Answer the requests that wait."""
        self._gates.pop(self._path(name)).set()

    def request_count(self, name: str) -> int:
        """Return the number of requests to the endpoint `name` so far."""
        return self._counts[self._path(name)]

    def last(self, name: str) -> Request:
        """Return the latest request to the endpoint `name`."""
        path = self._path(name)
        return next(request for request in reversed(self.requests) if request.path == path)

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and close the present ones."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        # Since Python 3.12.1 this waits for the connections too, so they are closed first.
        await self._server.wait_closed()
        self._server = None

    def stop_listening(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()

    async def respond(self, request: Request) -> Reply:
        """Return the reply to a request: that of the handler of its endpoint, otherwise status 404."""
        handler = self.handlers.get(request.path)
        if handler is None:
            return Reply(status=404)
        reply = handler(request)
        return reply if isinstance(reply, Reply) else await reply

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.base_path}/{name}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            keep_alive = True
            answers = 0
            while keep_alive:
                request = await _read(reader)
                if answers == self.answers_per_connection:
                    break
                answers += 1
                self.requests.append(request)
                self._counts[request.path] += 1
                if request.path in self._gates:
                    await self._gates[request.path].wait()
                keep_alive = await _write(writer, await self.respond(request))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    return Request(method, path, headers, body, query)


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Send a reply, and return whether the connection can be used again."""
    if reply.hang_up:
        return False
    if reply.raw is not None:
        writer.write(reply.raw)
    elif reply.stream is not None:
        writer.write(_head(reply, {"connection": "close"}))
        async with aclosing(reply.stream):
            async for chunk in reply.stream:
                writer.write(chunk)
                await writer.drain()
    else:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        writer.write(_head(reply, {"content-length": str(len(body))}) + body)
    await writer.drain()
    return reply.raw is None and reply.stream is None


def _head(reply: Reply, headers: Mapping[str, str]) -> bytes:
    merged = {"content-type": "application/json", **headers, **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{k}: {v}" for k, v in merged.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
