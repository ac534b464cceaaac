"""The system under test: a stack of the test bed, a second issuer, and a route to the database."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import psutil
import psycopg

# <part admin>
from gatehouse.admin.v1 import admin_pb2, admin_pb2_grpc

# </part admin>
from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    OAuthClient,
    TokenManager,
    TokenSource,
    connect,
)
from gatehouse.client.issuer import open_issuer_client
from gatehouse.oauth import open_http
from gatehouse.settings import TlsSettings
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import NetworkFault
from gatehouse_testbed.bed.network import Route
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.postgres import port_of, with_port
from gatehouse_testbed.processes import GatehouseProcess
from gatehouse_testbed.stack import Stack, run_stack
from gatehouse_testbed.web import listen
from tests.support.load import reason_of
from tests.support.oauth_issuers import AUDIENCE, CLIENT_ID, CLIENT_SECRET, LoopbackIssuer

# For several addresses gRPC would expect all of them as one name in the certificate.
_SERVER_NAME = "localhost"
_WORKER = "gatehouse-worker"
SCOPE = "read:users write:users"
# As in production: a token that has been verified goes on during an outage of its issuer.
BUDGET_SECONDS = 30.0
TOKEN_SECONDS = 3600


class CurrentToken:
    """A TokenSource with one token, which can be replaced."""

    def __init__(self, value: str) -> None:
        self.value = value

    async def token(self) -> str:
        return self.value

    def invalidate(self, token: str) -> None:
        """Do nothing: there is no other token."""


@dataclass
class Target:
    """The processes of UserService that a fault is tried on.

    Attributes:
        processes: The processes, by the port on which each listens.
        control: What else the fault controls, such as a pooler of connections.
        entry: Port of a proxy that callers use; that of the processes if 0.
        standbys: Whether reads may come from standbys.
    """

    processes: dict[int, GatehouseProcess]
    control: Any = None
    entry: int = 0
    standbys: bool = False

    @property
    def ports(self) -> list[int]:
        """Ports that callers use."""
        return [self.entry] if self.entry else list(self.processes)

    async def standby_reads(self) -> int:
        """Return how many reads standbys have answered, by the metrics of all processes."""
        count = 0
        async with httpx.AsyncClient(trust_env=False) as http:
            for process in self.processes.values():
                port = (await process.ready())["metrics"]
                lines = (await http.get(f"http://{HOST}:{port}/metrics")).text.splitlines()
                found = [line for line in lines if line.startswith("gatehouse_database_reads_total{")]
                count += sum(round(float(line.split()[-1])) for line in found if 'source="standby"' in line)
        return count

    @property
    def port(self) -> int:
        """Port of the first process."""
        return next(iter(self.processes))

    @property
    def process(self) -> GatehouseProcess:
        """The first process."""
        return self.processes[self.port]


@dataclass
class Environment:
    """The running system.

    Attributes:
        stack: PostgreSQL, the development issuer and the services.
        route: The way of UserService to PostgreSQL.
        network_faults: Faults of the route.
        issuer: A second issuer, in this process, whose behavior a fault can change.
        http: HTTP client.
        users: UserService with both issuers and the route; it runs from the first fault to the last.
        owner_url: URL of the owner of the database under test; that of the stack if "".
        control: What else the faults control, such as a cluster of databases.
    """

    stack: Stack
    route: Route
    network_faults: Faults
    issuer: LoopbackIssuer
    http: httpx.AsyncClient
    users: Target = field(default_factory=lambda: Target({}))
    owner_url: str = ""
    control: Any = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def ca_file(self) -> Path:
        """The certificate authorities that clients trust."""
        assert self.stack.profile.ca_file is not None
        return self.stack.profile.ca_file

    @asynccontextmanager
    async def failing_network(self, **effects: bool) -> AsyncIterator[None]:
        """Let the network between UserService and PostgreSQL fail until the context ends."""
        fault = NetworkFault.model_validate({"target": self.route.name, **effects})
        added = self.network_faults.add(fault)
        self.route.apply(fault)
        try:
            yield
        finally:
            self.network_faults.remove(added)
            await self.route.lift(fault)

    # Services.

    def settings(self) -> dict[str, str]:
        """Return the settings of a UserService that trusts both issuers and connects by the route."""
        settings = dict(self.stack.processes["users"].settings)
        second = {
            "issuer": self.issuer.issuer,
            "audience": AUDIENCE,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        issuers = [
            issuer | {"revocation_budget_seconds": BUDGET_SECONDS}
            for issuer in (*json.loads(settings["GATEHOUSE_ISSUERS"]), second)
        ]
        return settings | {
            "GATEHOUSE_ISSUERS": json.dumps(issuers),
            "GATEHOUSE_USERS__DATABASE_URL": with_port(
                self.stack.postgres.urls()["users"], self.route.address[1]
            ),
            "GATEHOUSE_USERS__PORT": "0",
            "GATEHOUSE_SERVER__DRAIN_SECONDS": "5",
            "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
            "GATEHOUSE_TLS__RELOAD_SECONDS": "0.2",
        }

    async def start(
        self, *arguments: str, port: int = 0, output: int | None = None, **settings: str
    ) -> tuple[int, GatehouseProcess]:
        """Start a UserService and return its port; the caller stops it.

        Args:
            arguments: Further arguments of `gatehouse serve users`.
            port: Port to listen on; 0 takes a free one.
            output: File descriptor of its standard output; its log if None.
            settings: Settings to change.
        """
        number = next(self._numbers)
        process = await GatehouseProcess.start(
            f"replica-{number}",
            ["serve", "users", *arguments],
            self.settings() | {"GATEHOUSE_USERS__PORT": str(port)} | settings,
            self.stack.folder,
            output=output,
        )
        try:
            return int((await process.ready())["users"]), process
        except BaseException:
            await process.stop()
            raise

    @asynccontextmanager
    async def replicas(
        self, *arguments: str, count: int = 1, output: int | None = None, **settings: str
    ) -> AsyncIterator[Target]:
        """Run `count` processes of UserService until the context ends; see `start`."""
        target = Target({})
        try:
            for _ in range(count):
                port, process = await self.start(*arguments, output=output, **settings)
                target.processes[port] = process
            yield target
        finally:
            await asyncio.gather(*(process.stop() for process in target.processes.values()))

    # Clients.

    def channel(self, ports: Sequence[int], tokens: TokenSource | None = None) -> grpc.aio.Channel:
        """Open a channel as callers do, with retries."""
        tls = TlsSettings(ca_file=self.ca_file)
        return connect(_target(ports), tls=tls, server_name=_SERVER_NAME, tokens=tokens)

    def bare_channel(self, ports: Sequence[int]) -> grpc.aio.Channel:
        """Open a channel without retries, so that every failure shows."""
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.enable_http_proxy", 0),
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.ssl_target_name_override", _SERVER_NAME),
        ]
        trusted = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        return grpc.aio.secure_channel(_target(ports), trusted, options)

    def worker(self) -> TokenManager:
        """Return the token source of a client at the development issuer."""
        profile = self.stack.profile
        auth = ClientSecretBasic(profile.clients[_WORKER].get_secret_value())
        client = OAuthClient(self.http, _WORKER, auth, issuer=profile.issuer)
        return TokenManager(ClientCredentials(client, SCOPE))

    def grant(self) -> str:
        """Return a token of the second issuer."""
        return self.issuer.grant(scope=SCOPE, exp=int(time.time()) + TOKEN_SECONDS)

    def second_token(self) -> CurrentToken:
        """Return a token source of the second issuer."""
        return CurrentToken(self.grant())

    # <part admin>
    async def get_stats(self) -> str:
        """Call AdminService, which calls UserService; return the code, and the reason of an error."""
        profile = self.stack.profile
        async with open_issuer_client(profile) as issuer:
            password = profile.passwords["alice"].get_secret_value()
            response = await issuer.user_token("alice", password, "admin read:users")
        port = int(profile.targets["admin"].rpartition(":")[2])
        async with self.channel([port], CurrentToken(response.access_token)) as channel:
            admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
            try:
                await admin.GetStats(admin_pb2.GetStatsRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {reason_of(error)}"
            return "OK"

    # </part admin>

    # The database.

    async def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run a statement as the owner of the database and return its rows."""
        url = self.owner_url or self.stack.postgres.owner_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = await connection.execute(statement, parameters or None)
            return await cursor.fetchall() if cursor.description else []

    def postgres_pid(self) -> int:
        """Return the process id of PostgreSQL."""
        return int((self.stack.postgres.folder / "postmaster.pid").read_text().splitlines()[0])

    def postgres_processes(self) -> list[psutil.Process]:
        """Return all processes of PostgreSQL, the first one first."""
        first = psutil.Process(self.postgres_pid())
        return [first, *first.children(recursive=True)]


def _target(ports: Sequence[int]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


@asynccontextmanager
async def open_environment(on_progress: Callable[[str], None]) -> AsyncIterator[Environment]:
    """Run the system until the context ends, then stop all processes and delete all files."""
    async with AsyncExitStack() as exits:
        on_progress("starting PostgreSQL, two issuers and the services")
        stack = await exits.enter_async_context(run_stack())
        faults = Faults()
        route = Route("network/database", listen(HOST, 0), port_of(stack.postgres.owner_url), faults)
        await exits.enter_async_context(route.serve())
        issuer = LoopbackIssuer()
        await issuer.start()
        exits.push_async_callback(issuer.stop)
        http = await exits.enter_async_context(open_http(stack.profile.ca_file))
        environment = Environment(stack, route, faults, issuer, http)
        environment.users = await exits.enter_async_context(environment.replicas())
        yield environment
