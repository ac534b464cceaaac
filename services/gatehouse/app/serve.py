"""From settings to running servers: any of the three services in one process."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
from opentelemetry.metrics import CallbackOptions, Observation

from gatehouse.app.files import write_json
from gatehouse.app.grpc_tuning import is_active, lower_polling_thread_priority
from gatehouse.app.telemetry import Telemetry, make_telemetry
from gatehouse.domain import DomainError
from gatehouse.oauth import ClientCredentials, IssuerConfig, TracedTransport, Verifiers
from gatehouse.rpc import (
    ClientTls,
    RpcMetrics,
    Server,
    ServerLimits,
    ServerTls,
    Service,
    StopSignals,
    connect,
    run_until_signal,
)
from gatehouse.settings import ConfigurationError, IssuerSettings, Settings, secret_of
from gatehouse.storage import Database, Notifications, Readiness

if TYPE_CHECKING:
    from gatehouse.users import UserRepository
    from gatehouse.users.v1.users_pb2_grpc import UserServiceAsyncStub

PRUNE_SECONDS = 3600.0
SERVICE_NAMES = ("users", "admin", "public")
# What a database must answer before its service is ready: the tables are there, and may be read.
_PROBES = {
    "users": "SELECT FROM users.users LIMIT 1",
    "admin": "SELECT FROM admin.role_bindings, admin.role_outbox LIMIT 1",
    "public": "SELECT FROM public_info.notices LIMIT 1",
}


def issuer_config(settings: IssuerSettings) -> IssuerConfig:
    """Makes the configuration of an issuer.

    Raises:
        ConfigurationError: It cannot work.
    """
    name = "GATEHOUSE_ISSUERS: client_secret"
    try:
        return IssuerConfig(
            issuer=settings.issuer,
            audience=settings.audience,
            provider=settings.provider,
            mode=settings.mode.value,
            algorithms=settings.algorithms,
            discovery_url=settings.discovery_url,
            jwks_uri=settings.jwks_uri,
            introspection_endpoint=settings.introspection_endpoint,
            client_id=settings.client_id,
            client_secret=secret_of(settings.client_secret, settings.client_secret_file, name),
            revocation_budget_seconds=settings.revocation_budget_seconds,
            leeway_seconds=settings.leeway_seconds,
            allow_http=settings.allow_http,
            ca_file=settings.ca_file,
        )
    except ValueError as error:
        raise ConfigurationError(f"GATEHOUSE_ISSUERS: {settings.issuer}: {error}") from None


def server_tls(settings: Settings) -> ServerTls:
    """Makes the TLS of a server."""
    tls = settings.tls
    return ServerTls(
        certificate_file=tls.certificate_file,
        private_key_file=tls.private_key_file,
        plaintext=tls.plaintext,
        plaintext_beyond_loopback=tls.plaintext_beyond_loopback,
        reload_seconds=tls.reload_seconds,
    )


def client_tls(settings: Settings) -> ClientTls:
    """Makes the TLS of a channel."""
    tls = settings.tls
    return ClientTls(
        ca_file=tls.ca_file, plaintext=tls.plaintext, plaintext_beyond_loopback=tls.plaintext_beyond_loopback
    )


def server_limits(settings: Settings) -> ServerLimits:
    """Makes the limits of a server."""
    server = settings.server
    return ServerLimits(
        max_message_bytes=server.max_message_bytes,
        max_metadata_bytes=server.max_metadata_bytes,
        max_concurrent_streams=server.max_concurrent_streams,
        max_concurrent_rpcs=server.max_concurrent_rpcs,
        max_connection_age=server.max_connection_age_seconds,
        max_connection_age_grace=server.max_connection_age_grace_seconds,
        max_deadline=server.max_deadline_seconds,
        max_stream_deadline=server.max_stream_deadline_seconds,
        drain=server.drain_seconds,
        recheck=server.recheck_seconds,
    )


def http_client(configs: Sequence[IssuerConfig], telemetry: Telemetry) -> httpx.AsyncClient:
    """Makes the client towards issuers: their authorities trusted, redirects off, every request traced.

    Raises:
        ConfigurationError: The file of an authority cannot be read.
    """
    context = ssl.create_default_context()
    for config in configs:
        if config.ca_file is not None:
            try:
                context.load_verify_locations(config.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(f"GATEHOUSE_ISSUERS: ca_file {config.ca_file}: {error}") from None
    inner = httpx.AsyncHTTPTransport(verify=context, limits=httpx.Limits(max_connections=50), trust_env=False)
    return httpx.AsyncClient(
        transport=TracedTransport(telemetry.tracer, inner), follow_redirects=False, trust_env=False
    )


class _Process:
    """The parts of one process, opened as they are needed and closed in the other order."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry, stack: AsyncExitStack, *, reuse_port: bool
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.stack = stack
        self.reuse_port = reuse_port
        self.metrics = RpcMetrics(telemetry.meter)
        self.configs = [issuer_config(issuer) for issuer in settings.issuers]
        if not self.configs:
            raise ConfigurationError(
                "GATEHOUSE_ISSUERS: names no issuer; give a JSON list such as "
                '[{"issuer": "https://id.example.com/realms/r", "audience": "gatehouse-api", "mode": "jwt"}]'
            )
        self.http = http_client(self.configs, telemetry)
        stack.push_async_callback(self.http.aclose)
        self.verifiers = Verifiers(
            self.configs, http=self.http, tracer=telemetry.tracer, observer=self.metrics
        )
        self.pools: dict[str, Database] = {}

    def database(self, name: Literal["users", "admin", "public"]) -> Database:
        database = self.settings.database
        opened = Database(
            database.address(name),
            pool_size=database.pool_size,
            connect_timeout=database.connect_timeout_seconds,
            tracer=self.telemetry.tracer if self.settings.telemetry.otlp_endpoint else None,
        )
        self.stack.push_async_callback(opened.aclose)
        self.pools[name] = opened
        return opened

    async def readiness(self, name: str, database: Database) -> Readiness:
        logger = self.telemetry.logger

        def changed(ready: bool, reason: str) -> None:  # noqa: FBT001 - called by position
            if ready:
                logger.info("database ready", database=name)
                return
            hint = {"hint": "run `gatehouse migrate`"} if reason == "DATABASE_NOT_MIGRATED" else {}
            logger.warning("database not ready", database=name, reason=reason, **hint)

        followed = Readiness(database, _PROBES[name], on_change=changed)
        await followed.start()
        self.stack.push_async_callback(followed.aclose)
        return followed

    def server(self, name: str, service: Service, ready: Callable[[], bool]) -> Server:
        server = self.settings.server
        port = {"users": server.users_port, "admin": server.admin_port, "public": server.public_port}[name]
        made = Server(
            [service],
            verifier=self.verifiers,
            tls=server_tls(self.settings),
            logger=self.telemetry.logger,
            host=server.host,
            port=port,
            limits=server_limits(self.settings),
            tracer=self.telemetry.tracer if self.settings.telemetry.otlp_endpoint else None,
            metrics=self.metrics,
            readiness=ready,
            reflection=server.reflection,
            reuse_port=self.reuse_port,
        )
        online = [path[1:] for path, rule in made.policy.rules.items() if rule.online]
        silent = [config.issuer for config in self.configs if config.mode == "jwt"]
        if online and silent:
            # Such a call is UNAVAILABLE each time; better that whoever set it so learns of it now.
            self.telemetry.logger.warning("no online answers in mode jwt", issuers=silent, methods=online)
        return made

    # Each service is imported by its method, so that a process loads only what it serves.

    async def users(self) -> Server:
        from gatehouse.users import CHANNEL, UserRepository, UserService  # noqa: PLC0415
        from gatehouse.users.v1 import users_pb2_grpc  # noqa: PLC0415

        database = self.database("users")
        notifications = Notifications(database.url, CHANNEL)
        await notifications.start()
        self.stack.push_async_callback(notifications.aclose)
        repository = UserRepository(database, time.time)
        pruner = asyncio.create_task(_prune_forever(repository))
        self.stack.push_async_callback(_cancel, pruner)
        followed = await self.readiness("users", database)
        service = Service(
            users_pb2_grpc.add_UserServiceServicer_to_server, UserService(repository, notifications)
        )
        return self.server("users", service, lambda: followed.ready and self.verifiers.ready)

    async def admin(self) -> Server:
        from gatehouse.admin import AdminRepository, AdminService  # noqa: PLC0415
        from gatehouse.admin.v1 import admin_pb2_grpc  # noqa: PLC0415
        from gatehouse.users.v1 import users_pb2_grpc  # noqa: PLC0415

        client = self.settings.client
        secret = secret_of(client.client_secret, client.client_secret_file, "GATEHOUSE_CLIENT__CLIENT_SECRET")
        issuer = client.issuer or self.configs[0].issuer
        if not client.client_id or not secret:
            raise ConfigurationError(
                "GATEHOUSE_CLIENT__CLIENT_ID and GATEHOUSE_CLIENT__CLIENT_SECRET: AdminService needs them "
                "to call UserService"
            )
        tokens = ClientCredentials(
            http=self.http,
            issuer=issuer,
            discovery_url=client.discovery_url or self.discovery_url(issuer),
            client_id=client.client_id,
            client_secret=secret,
            scope=client.scope,
            allow_http=client.allow_http,
        )
        self.stack.push_async_callback(tokens.aclose)
        channel = connect(
            client.users_target, tls=client_tls(self.settings), tokens=tokens, tracer=self.telemetry.tracer
        )
        await self.stack.enter_async_context(channel)
        database = self.database("admin")
        followed = await self.readiness("admin", database)
        stub: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
        if self.settings.role_sync.admin_url:
            await self.role_sync(self.settings.role_sync.admin_url, database, stub)
        service = AdminService(AdminRepository(database, time.time), stub)
        return self.server(
            "admin",
            Service(admin_pb2_grpc.add_AdminServiceServicer_to_server, service),
            lambda: followed.ready and self.verifiers.ready,
        )

    async def role_sync(self, admin_url: str, database: Database, stub: UserServiceAsyncStub) -> None:
        """Starts the worker that brings role bindings to the identity provider."""
        from gatehouse.admin import (  # noqa: PLC0415
            ROLE_OUTBOX_CHANNEL,
            DeliveryMetrics,
            Pace,
            RoleDelivery,
            RoleOutbox,
        )
        from gatehouse.provider import KeycloakRoles  # noqa: PLC0415

        sync = self.settings.role_sync
        secret = secret_of(sync.client_secret, sync.client_secret_file, "GATEHOUSE_ROLE_SYNC__CLIENT_SECRET")
        if not secret:
            raise ConfigurationError(
                "GATEHOUSE_ROLE_SYNC__CLIENT_SECRET: is missing; GATEHOUSE_ROLE_SYNC__ADMIN_URL needs a "
                "client that may manage-users"
            )
        issuer = sync.issuer or self.configs[0].issuer
        tokens = ClientCredentials(
            http=self.http,
            issuer=issuer,
            discovery_url=sync.discovery_url or self.discovery_url(issuer),
            client_id=sync.client_id,
            client_secret=secret,
            allow_http=sync.allow_http,
        )
        self.stack.push_async_callback(tokens.aclose)
        try:
            roles = KeycloakRoles(self.http, tokens, admin_url, allow_http=sync.allow_http)
        except ValueError as error:
            raise ConfigurationError(
                f"GATEHOUSE_ROLE_SYNC__ADMIN_URL: {error}; give https, or http on loopback or with "
                "GATEHOUSE_ROLE_SYNC__ALLOW_HTTP=true"
            ) from None
        notifications = Notifications(database.url, ROLE_OUTBOX_CHANNEL)
        await notifications.start()
        self.stack.push_async_callback(notifications.aclose)
        delivery = RoleDelivery(
            RoleOutbox(database),
            stub,
            roles,
            notifications,
            issuer=issuer,
            logger=self.telemetry.logger,
            metrics=DeliveryMetrics(self.telemetry.meter),
            tracer=self.telemetry.tracer,
            pace=Pace(poll=sync.poll_seconds),
        )
        await delivery.start()
        self.stack.push_async_callback(delivery.aclose)

    def discovery_url(self, issuer: str) -> str | None:
        """Returns where the metadata of an issuer whose tokens are accepted is reached."""
        return next((c.discovery_url for c in self.configs if c.issuer == issuer), None)

    async def public(self) -> Server:
        from gatehouse.app.policy import whole_policy  # noqa: PLC0415
        from gatehouse.public import NoticeRepository, PublicService  # noqa: PLC0415
        from gatehouse.public.v1 import public_pb2_grpc  # noqa: PLC0415

        database = self.database("public")
        followed = await self.readiness("public", database)
        service = PublicService(
            NoticeRepository(database, time.time),
            version=metadata.version("gatehouse"),
            issuers=[config.issuer for config in self.configs],
            rules=whole_policy().rules,
        )
        # It needs no token, so it is ready without keys.
        return self.server(
            "public",
            Service(public_pb2_grpc.add_PublicServiceServicer_to_server, service),
            lambda: followed.ready,
        )

    def observe_pools(self) -> None:
        """Publishes how many connections are in use."""

        def look(_: CallbackOptions) -> list[Observation]:
            return [Observation(d.pool_in_use(), {"service": name}) for name, d in self.pools.items()]

        self.telemetry.meter.create_observable_gauge(
            "gatehouse.database.connections", [look], unit="{connection}", description="Connections in use"
        )


async def _prune_forever(repository: UserRepository) -> None:
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            await repository.prune()
        except DomainError:
            continue  # the database is away; the next round does it


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def serve(
    settings: Settings, names: Sequence[str], *, reuse_port: bool = False, ready_file: Path | None = None
) -> None:
    """Serves until a signal.

    Args:
        settings: All settings.
        names: Services to serve, some of SERVICE_NAMES.
        reuse_port: Whether other processes share the ports.
        ready_file: Written, as JSON, with the ports once the servers listen.

    Raises:
        ConfigurationError: Something cannot be used as it is set.
        PolicyError: An RPC has no rule.
        TlsError: A certificate cannot be used.
        OSError: A port cannot be had.
    """
    telemetry = make_telemetry(settings.telemetry, settings.log, "gatehouse-" + "-".join(names))
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        stack.callback(telemetry.shutdown)
        process = _Process(settings, telemetry, stack, reuse_port=reuse_port)
        stack.push_async_callback(process.verifiers.aclose)
        starting = asyncio.create_task(process.verifiers.start())
        make = {"users": process.users, "admin": process.admin, "public": process.public}
        servers = [await make[name]() for name in names]
        process.observe_pools()
        ports = {}
        for name, server in zip(names, servers, strict=True):
            ports[name] = await server.start()
            stack.push_async_callback(server.stop)
        if is_active(settings.server.grpc_tuning):
            lower_polling_thread_priority()
        if ready_file is not None:
            write_json(ready_file, ports | {"metrics": telemetry.metrics_port})
        # What is here now stays: collecting it again and again is what makes pauses.
        gc.collect()
        gc.freeze()
        await run_until_signal(servers, signals)
        await _cancel(starting)
        telemetry.logger.info("stopped", services=list(names))
