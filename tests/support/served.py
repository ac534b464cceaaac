"""UserService and AdminService as processes, with any issuer that has our realm."""

# <part admin/>

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.client import connect
from gatehouse.settings import TlsSettings
from gatehouse.users.v1 import users_pb2_grpc
from tests.support.issuer import SECRETS
from tests.support.services import FixedToken

START_SECONDS = 90.0


@dataclass
class Served:
    """One `gatehouse serve` process; it can be killed and started again."""

    name: str
    environment: Mapping[str, str]
    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        """Its output over all starts."""
        return (self.folder / f"{self.name}.log").read_text(encoding="utf-8")

    async def start(self) -> None:
        """Start it and wait until it listens."""
        ready = self.folder / f"{self.name}.json"
        ready.unlink(missing_ok=True)
        with (self.folder / f"{self.name}.log").open("ab") as stream:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "gatehouse", "serve", self.name, "--ready-file", str(ready)),
                env=dict(self.environment),
                stdout=stream,
                stderr=stream,
            )
        async with asyncio.timeout(START_SECONDS):
            while not ready.exists():
                assert self._process.returncode is None, self.log
                await asyncio.sleep(0.02)
        self.ports = json.loads(ready.read_text(encoding="utf-8"))

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(START_SECONDS):
            return await self._process.wait()

    async def metrics(self, http: httpx.AsyncClient) -> str:
        """Return its metrics in the Prometheus format."""
        answer = await http.get(f"http://127.0.0.1:{self.ports['metrics']}/metrics")
        return answer.text


@dataclass
class Pair:
    """Both services, and stubs to them with any token."""

    users: Served
    admin: Served
    _stack: AsyncExitStack

    async def as_user(self, token: str) -> users_pb2_grpc.UserServiceAsyncStub:
        """UserService with an access token."""
        stub: users_pb2_grpc.UserServiceAsyncStub
        stub = users_pb2_grpc.UserServiceStub(await self._channel(self.users, token))
        return stub

    async def as_admin(self, token: str) -> admin_pb2_grpc.AdminServiceAsyncStub:
        """AdminService with an access token; request it again after a restart."""
        stub: admin_pb2_grpc.AdminServiceAsyncStub
        stub = admin_pb2_grpc.AdminServiceStub(await self._channel(self.admin, token))
        return stub

    async def _channel(self, served: Served, token: str) -> Any:
        target = f"127.0.0.1:{served.ports[served.name]}"
        made = connect(target, tls=TlsSettings(plaintext=True), tokens=FixedToken(token), deadline=60.0)
        return await self._stack.enter_async_context(made)


@asynccontextmanager
async def serve_pair(
    issuer: str, admin_url: str, database_urls: Mapping[str, str], folder: Path, **more: str
) -> AsyncIterator[Pair]:
    """Serve users and admin, and deliver role changes to the identity provider.

    Args:
        issuer: Its issuer URL.
        admin_url: The realm in its admin API.
        database_urls: By service.
        folder: For logs.
        more: Further settings of AdminService.
    """
    accepted = {
        "issuer": issuer,
        "audience": "gatehouse-api",
        "client_id": "gatehouse-api",
        "client_secret": SECRETS["gatehouse-api"],
    }
    common = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")} | {
        "GATEHOUSE_ISSUERS": json.dumps([accepted]),
        "GATEHOUSE_TLS__PLAINTEXT": "true",
        "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
        "GATEHOUSE_USERS__PORT": "0",
        "GATEHOUSE_ADMIN__PORT": "0",
        # Deadlines of callers are longer than this machine may be slow.
        "GATEHOUSE_SERVER__MAX_DEADLINE_SECONDS": "60",
    }
    users = Served("users", common | {"GATEHOUSE_USERS__DATABASE_URL": database_urls["users"]}, folder)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(users.end)
        await users.start()
        own = {
            "GATEHOUSE_ADMIN__DATABASE_URL": database_urls["admin"],
            "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "gatehouse-admin-service",
            "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": SECRETS["gatehouse-admin-service"],
            "GATEHOUSE_ADMIN__USERS_TARGET": f"127.0.0.1:{users.ports['users']}",
            "GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL": admin_url,
            "GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET": SECRETS["gatehouse-role-sync"],
        }
        admin = Served("admin", common | own | more, folder)
        stack.push_async_callback(admin.end)
        await admin.start()
        yield Pair(users, admin, stack)


class Forwarder:
    """A loopback port that forwards to another, and can be closed and opened again."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def up(self) -> None:
        """Open the port again, with the same number."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Close the port and its connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except ConnectionError:
            pass
        finally:
            back.close()
            writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(65536):
        target.write(chunk)
        await target.drain()
    target.close()
