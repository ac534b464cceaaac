"""A connection pooler in transaction mode, as PgBouncer is: it speaks the protocol of PostgreSQL.

Clients share server connections: each transaction gets the one that was used least recently. The start-up
parameter `options` is refused. https://www.postgresql.org/docs/current/protocol.html
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SERVER_CONNECTIONS = 2
_PROTOCOL = 196608
_SSL_REQUEST, _CANCEL_REQUEST = 80877103, 80877102
_TERMINATE = b"X"
_ACCEPTED = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone"}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content


async def _read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the type of a message, and the whole message."""
    head = await reader.readexactly(5)
    (size,) = struct.unpack("!i", head[1:])
    return head[:1], head + await reader.readexactly(size - 4)


class _Pooler:
    def __init__(self, port: int) -> None:
        self._port = port
        self._servers: dict[bytes, asyncio.Queue[Streams]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size, code) = struct.unpack("!ii", await reader.readexactly(8))
                content = await reader.readexactly(size - 8)
                if code == _PROTOCOL:
                    break
                if code == _CANCEL_REQUEST:
                    return
                writer.write(b"N")  # no TLS, no GSSAPI
            fields = content.rstrip(b"\0").split(b"\0")
            names = [name.decode() for name in fields[::2]]
            refused = [name for name in names if name not in _ACCEPTED]
            if refused:
                text = f"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: {refused[0]}\0\0"
                writer.write(_message(b"E", text.encode()))
                return
            parameters = dict(zip(names, fields[1::2], strict=True))
            startup = b"user\0%(user)s\0database\0%(database)s\0\0" % _bytes(parameters)
            servers = await self._servers_of(startup)
            writer.write(_message(b"R", struct.pack("!i", 0)))
            for name, value in (("client_encoding", "UTF8"), ("server_version", "18.0")):
                writer.write(_message(b"S", f"{name}\0{value}\0".encode()))
            writer.write(_message(b"K", struct.pack("!ii", 0x7FFF0000, 1)))
            writer.write(_message(b"Z", b"I"))
            while True:
                first = await _read_message(reader)
                if first[0] == _TERMINATE:
                    return
                server = await servers.get()
                try:
                    await _transaction(first, (reader, writer), server)
                except (asyncio.IncompleteReadError, ConnectionError):
                    # The client left in a transaction.
                    server[1].close()
                    server = await self._connect(startup)
                    return
                finally:
                    servers.put_nowait(server)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _servers_of(self, startup: bytes) -> asyncio.Queue[Streams]:
        if startup not in self._servers:
            servers = self._servers[startup] = asyncio.Queue()
            for _ in range(SERVER_CONNECTIONS):
                servers.put_nowait(await self._connect(startup))
        return self._servers[startup]

    async def _connect(self, startup: bytes) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(struct.pack("!ii", len(startup) + 8, _PROTOCOL) + startup)
        while (await _read_message(reader))[0] != b"Z":
            pass
        return reader, writer

    def close(self) -> None:
        for servers in self._servers.values():
            while not servers.empty():
                servers.get_nowait()[1].close()


def _bytes(parameters: dict[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in parameters.items()}


async def _transaction(first: tuple[bytes, bytes], client: Streams, server: Streams) -> None:
    """Forward messages until the server is idle, outside of a transaction."""
    (from_client, to_client), (from_server, to_server) = client, server
    kind, message = first
    while True:
        to_server.write(message)
        if kind in b"QS":
            status = b""
            while not status:
                answer, content = await _read_message(from_server)
                to_client.write(content)
                status = content[5:] if answer == b"Z" else b""
            if status == b"I":
                return
        kind, message = await _read_message(from_client)
        if kind == _TERMINATE:
            raise ConnectionResetError


@asynccontextmanager
async def run_pooler(port: int) -> AsyncIterator[int]:
    """Run a pooler in front of the PostgreSQL on this port of loopback, and return its port."""
    pooler = _Pooler(port)
    server = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        pooler.close()
