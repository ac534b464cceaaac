"""Servers that present a bad certificate, and forward to a service what clients send nevertheless."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import Certificate
from gatehouse_testbed.bed.network import Reencryption, Route
from gatehouse_testbed.certificates import Authority, KeyPair
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.web import listen

_WRONG_NAME = "other.example"
_HTTP_2 = ["h2"]
_DAY = dt.timedelta(days=1)


class Impostor:
    """Starts the servers of one service when they are first needed.

    Args:
        authority: Authority of the service, which clients trust.
        names: Host names and IP addresses of the service.
        ca_file: Certificate of the authority.
        port: Port of the service.
        folder: For certificates and their keys; created with the first.
        stack: Ends the servers.
    """

    def __init__(
        self,
        authority: Authority,
        names: Sequence[str],
        ca_file: Path,
        port: int,
        folder: Path,
        stack: AsyncExitStack,
    ) -> None:
        self._authority = authority
        self._names = names
        self._ca_file = ca_file
        self._port = port
        self._folder = folder
        self._stack = stack
        self._ports: dict[Certificate, int] = {}
        self._starting = asyncio.Lock()

    async def find(self, certificate: Certificate) -> int:
        """Return the port of the server that presents this certificate."""
        async with self._starting:
            if certificate not in self._ports:
                self._ports[certificate] = await self._start(certificate)
        return self._ports[certificate]

    async def _start(self, certificate: Certificate) -> int:
        pair = self._issue(certificate)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = self._folder / f"{certificate}.pem"
        file.touch(mode=0o600)
        file.write_bytes(pair.certificate + pair.private_key)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(file)
        client = ssl.create_default_context(cafile=self._ca_file)
        for context in (server, client):
            context.set_alpn_protocols(_HTTP_2)
        route = Route("", listen(HOST, 0), self._port, Faults(), reencryption=Reencryption(server, client))
        await self._stack.enter_async_context(route.serve())
        return route.address[1]

    def _issue(self, certificate: Certificate) -> KeyPair:
        now = dt.datetime.now(dt.UTC)
        if certificate == "expired":
            return self._authority.issue(self._names, now - dt.timedelta(days=2), lifetime=_DAY)
        if certificate == "wrong_name":
            return self._authority.issue([_WRONG_NAME], now)
        return Authority.create(now, name="Another authority").issue(self._names, now)
