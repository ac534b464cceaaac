"""An HTTP proxy on loopback that connects to one port, whatever the target (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LoopbackProxy:
    """The proxy.

    Args:
        target_port: Port on loopback to connect to.
        credentials: `user:password` that it requires, "" for none.
    """

    def __init__(self, target_port: int, credentials: str = "") -> None:
        self.port = 0
        self.targets: list[str] = []
        self._target_port = target_port
        self._expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to the target."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            if headers.get("proxy-authorization", "") != self._expected:
                writer.write(b"HTTP/1.1 407 canary-reason\r\ncontent-length: 0\r\n\r\n")
                return
            method, target, _ = first.split(" ")
            self.targets.append(target)
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                back.write(head.replace(target.encode(), b"/" + target.split("/", 3)[3].encode(), 1))
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(65536):
        target.write(chunk)
        await target.drain()
    target.close()


@asynccontextmanager
async def loopback_proxy(target_port: int, credentials: str = "") -> AsyncIterator[LoopbackProxy]:
    """Run a LoopbackProxy."""
    proxy = LoopbackProxy(target_port, credentials)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
