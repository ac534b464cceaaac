"""Routes in this process, with more data than buffers hold."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import uvloop

from gatehouse_testbed.bed.connection import Connection
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import Certificate, NetworkFault
from gatehouse_testbed.bed.impostor import Impostor
from gatehouse_testbed.bed.network import Route
from gatehouse_testbed.certificates import Authority, write_certificates
from gatehouse_testbed.ports import HOST, free_port
from gatehouse_testbed.web import listen
from tests.support.eventually import eventually

SIZE = 8 << 20


async def send_much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send SIZE bytes and close the connection."""
    writer.write(bytes(SIZE))
    writer.close()


@asynccontextmanager
async def route_with(**effects: Any) -> AsyncIterator[Route]:
    """Run a route with a fault to a server that sends much."""
    faults = Faults()
    faults.add(NetworkFault(target="network/part", **effects))
    server = await asyncio.start_server(send_much, HOST, 0)
    try:
        route = Route("network/part", listen(HOST, 0), server.sockets[0].getsockname()[1], faults)
        async with route.serve():
            yield route
    finally:
        server.close()


async def test_delay_does_not_limit_the_bandwidth() -> None:
    async with route_with(delay_seconds=0.2) as route:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(*route.address)
        assert len(await reader.read()) == SIZE
        writer.close()
        # One delay for each MiB that is on its way; one for each read would take more than 6 seconds.
        assert 0.2 <= time.monotonic() - began < 6


async def test_connection_is_reset_when_what_the_client_may_receive_is_sent() -> None:
    async with route_with(reset_after_bytes=SIZE - 1) as route:
        reader, _ = await asyncio.open_connection(*route.address)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(SIZE)


async def test_refused_connections_are_accepted_on_the_same_port_later() -> None:
    async with route_with(delay_seconds=0.001) as route:
        fault = NetworkFault(target="network/part", refuse=True)
        route.apply(fault)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*route.address)
        await route.lift(fault)
        reader, writer = await asyncio.open_connection(*route.address)
        assert len(await reader.read()) == SIZE
        writer.close()


async def test_connection_to_a_part_that_is_down_is_closed() -> None:
    with listen(HOST, 0) as unused:
        route = Route("network/part", listen(HOST, 0), unused.getsockname()[1], Faults())
        async with route.serve():
            reader, writer = await asyncio.open_connection(*route.address)
            assert await reader.read() == b""
            writer.close()


async def test_impostor_presents_each_certificate(tmp_path: Path) -> None:
    authority = Authority.create(dt.datetime.now(dt.UTC))
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.pair.certificate)
    seen = set()
    async with AsyncExitStack() as stack:
        impostor = Impostor(authority, ["127.0.0.1"], ca_file, free_port(), tmp_path / "keys", stack)
        for certificate in get_args(Certificate):
            port = await impostor.find(certificate)
            assert await impostor.find(certificate) == port
            seen.add(await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port)))
    assert len(seen) == len(get_args(Certificate)) == 3


def test_connection_ends_that_is_closed_as_soon_as_it_is_complete(tmp_path: Path) -> None:
    """uvloop never reports the end of a connection whose opening is cancelled that late."""
    authority = Authority.create(dt.datetime.now(dt.UTC))
    files = write_certificates(tmp_path, ["127.0.0.1"], authority)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.certificate_file, files.private_key_file)
    client = ssl.create_default_context(cafile=files.ca_file)
    part = listen(HOST, 0)
    part.listen()
    part.setblocking(True)

    def answer() -> ssl.SSLSocket:
        accepted = server.wrap_socket(part.accept()[0], server_side=True)
        accepted.sendall(b"as gRPC, which speaks first")
        return accepted

    async def close_at_once(loop: asyncio.AbstractEventLoop) -> None:
        opened: set[Connection] = set()

        async def connect(connection: Connection) -> None:
            await loop.create_connection(lambda: connection.part, *part.getsockname(), ssl=client)

        entrance = await loop.create_server(lambda: Connection(opened, connect, None).client, HOST, 0)
        async with entrance, asyncio.timeout(20):
            answering = asyncio.ensure_future(asyncio.to_thread(answer))
            _, writer = await asyncio.open_connection(*entrance.sockets[0].getsockname())
            await eventually(lambda: opened)
            (connection,) = opened
            while connection.part.transport is None:
                await asyncio.sleep(0)
            connection.close()
            writer.close()
            with await answering:
                connection.reset()
                await connection.ended

    async def often() -> None:
        for _ in range(10):
            await close_at_once(asyncio.get_running_loop())

    with part:
        uvloop.run(often())


@pytest.mark.parametrize("turns", range(6))
def test_connection_ends_that_is_reset_while_it_is_being_opened(turns: int) -> None:
    """The same, without TLS, at each turn of the event loop."""

    async def reset_early() -> None:
        loop = asyncio.get_running_loop()
        part = await asyncio.start_server(send_much, HOST, 0)
        port = part.sockets[0].getsockname()[1]
        opened: set[Connection] = set()
        accepted = loop.create_future()

        async def connect(connection: Connection) -> None:
            accepted.set_result(connection)
            await loop.create_connection(lambda: connection.part, HOST, port)

        entrance = await loop.create_server(lambda: Connection(opened, connect, None).client, HOST, 0)
        async with part, entrance, asyncio.timeout(20):
            _, writer = await asyncio.open_connection(*entrance.sockets[0].getsockname())
            connection = await accepted
            for _ in range(turns):
                await asyncio.sleep(0)
            connection.reset()
            await connection.ended
            writer.close()
            await eventually(lambda: connection.part.transport is None)

    uvloop.run(reset_early())
