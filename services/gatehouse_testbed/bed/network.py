"""Routes to the parts of the test bed, on which the faults of the network happen."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gatehouse_testbed.bed.connection import Connection, End
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import Certificate, NetworkFault
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.web import listen

FindImpostor = Callable[[Certificate], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Reencryption:
    """How a route decrypts what it receives, and encrypts it again.

    Attributes:
        server: Towards the client.
        client: Towards the part.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext


class Route:
    """Forwards TCP connections on loopback to a port, and makes them fail by the faults of its name.

    Args:
        name: Target of its faults, such as `network/users`.
        listener: A bound socket, on which it accepts connections; it closes the socket.
        port: The port to which it forwards.
        faults: The faults that are in effect.
        find_impostor: Returns the port of a server that forwards to the same part, but presents a bad
            certificate; None if the part has no certificate.
        reencryption: None forwards bytes unchanged.
    """

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        port: int,
        faults: Faults,
        *,
        find_impostor: FindImpostor | None = None,
        reencryption: Reencryption | None = None,
    ) -> None:
        self.name = name
        self.has_certificate = find_impostor is not None
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._bound = listener
        self._port = port
        self._faults = faults
        self._find_impostor = find_impostor
        self._reencryption = reencryption
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Accept connections until the context ends."""
        try:
            await self._listen()
            yield
        finally:
            self._refuse()
            self._bound.close()
            connections = list(self._connections)
            for connection in connections:
                connection.reset()
            await asyncio.gather(*(connection.ended for connection in connections))

    async def _listen(self) -> None:
        context = self._reencryption.server if self._reencryption else None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=self._bound, ssl=context)

    def _refuse(self) -> None:
        """Refuse connections. A socket that does not listen keeps the port."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._bound = listen(*self.address)

    def apply(self, fault: NetworkFault) -> None:
        """Let a new fault affect connections that are open; one that counts or draws is for new ones only."""
        if fault.refuse:
            self._refuse()
        if fault.is_for_all:
            for connection in list(self._connections):
                if connection.fault is None:
                    connection.change(fault)

    async def lift(self, fault: NetworkFault) -> None:
        """Let connections go on without a fault, which has been removed."""
        others = [f for f in self._its_faults() if f.is_for_all]
        if fault.refuse and not any(f.refuse for f in others):
            await self._listen()
        for connection in list(self._connections):
            if connection.fault is fault:
                connection.change(next(iter(others), None))

    def _its_faults(self) -> Iterator[NetworkFault]:
        return (f for f in self._faults.of(NetworkFault) if f.target == self.name)

    def _accept(self) -> End:
        fault = next((f for f in self._its_faults() if f.happens()), None)
        return Connection(self._connections, self._connect_part, fault).client

    async def _connect_part(self, connection: Connection) -> None:
        port = self._port
        if connection.fault is not None and connection.fault.certificate and self._find_impostor is not None:
            port = await self._find_impostor(connection.fault.certificate)
        context = self._reencryption.client if self._reencryption else None
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection.part, HOST, port, ssl=context)
