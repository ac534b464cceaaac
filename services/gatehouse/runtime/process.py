"""One process that serves any number of services: opens what they share, builds and starts each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import NoOpTracer, Tracer

from gatehouse.oauth import MultiIssuerVerifier
from gatehouse.rpc import AccessRule, Interceptor, RpcMetrics, Server, ServerTelemetry, Service
from gatehouse.rpc.tls import read_authorities, server_credentials
from gatehouse.runtime.databases import Standbys, open_database
from gatehouse.runtime.http_clients import HttpClients
from gatehouse.runtime.issuers import IssuerTelemetry
from gatehouse.runtime.spec import BackgroundWork, ServiceContext, ServiceSpec
from gatehouse.runtime.telemetry import Telemetry
from gatehouse.settings import ConfigurationError, Settings
from gatehouse.storage import Database, Readiness

_DATABASE_HINTS = {
    "DATABASE_ACCESS_DENIED": "run `gatehouse migrate`, and check the user in the database URL",
    "DATABASE_BUSY": "raise max_connections of PostgreSQL, or lower GATEHOUSE_DATABASE__POOL_SIZE",
    "DATABASE_FULL": "free disk space on the server of the database",
    "DATABASE_NOT_MIGRATED": "run `gatehouse migrate`",
    "DATABASE_READ_ONLY": "wait for the failover to end, or list all servers in the URL with"
    " target_session_attrs=read-write",
}


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a test bed changes in a process; by default nothing.

    Attributes:
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        interceptors: See Server.
        observers: See Server.
        channel_options: See ServiceContext.
    """

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    interceptors: Sequence[Interceptor] = ()
    observers: Sequence[Interceptor] = ()
    channel_options: Sequence[tuple[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class BuiltServer:
    """The server of a service, and its background work; neither is started yet."""

    server: Server
    background: Sequence[BackgroundWork]


class Process:
    """What the services of one process share. Everything is closed in reverse order by `stack`.

    Args:
        settings: All settings.
        telemetry: Logger, tracer and meter.
        rules: Access rules of all services, by path.
        stack: Closes what is opened here.
        hooks: Clocks and additional interceptors.

    Raises:
        ConfigurationError: No issuer is configured, or its CA file cannot be read.
        TlsError: The certificate of the servers or the CA file of the clients cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        rules: Mapping[str, AccessRule],
        stack: AsyncExitStack,
        hooks: Hooks | None = None,
    ) -> None:
        self._settings = settings
        self._hooks = hooks = hooks or Hooks()
        self._telemetry = telemetry
        self._rules = rules
        self._stack = stack
        self._metrics = RpcMetrics(telemetry.meter)
        if not settings.issuers:
            raise ConfigurationError(
                "GATEHOUSE_ISSUERS: no issuer is configured; set a JSON list such as "
                '[{"issuer": "https://id.example.com/realms/r", "audience": "gatehouse-api", "mode": "jwt"}]'
            )
        # Servers and clients do it again. Here an error is reported before anything is connected or started.
        if settings.tls.ca_file is not None:
            read_authorities(settings.tls.ca_file)
        server_credentials(
            settings.tls, settings.server.host, telemetry.logger, self._metrics.certificate_loaded
        )
        self._issuers = IssuerTelemetry(telemetry.logger, telemetry.meter)
        self._http_for = HttpClients(settings.issuers, telemetry.tracer, settings.tls.reload_seconds, stack)
        self.verifier = MultiIssuerVerifier(
            settings.issuers,
            http_for=self._http_for,
            tracer=telemetry.tracer,
            observer=self._issuers,
            clock=hooks.clock,
            monotonic=hooks.monotonic,
        )
        stack.push_async_callback(self.verifier.aclose)
        self._pools: dict[str, Database] = {}
        self._standbys = Standbys(settings, telemetry.logger, telemetry.meter, self._tracer())
        telemetry.meter.create_observable_gauge(
            "gatehouse.database.connections",
            [self._observe_pools],
            unit="{connection}",
            description="Connections in use",
        )
        telemetry.meter.create_observable_gauge(
            "gatehouse.database.connections.limit",
            [self._observe_pool_limits],
            unit="{connection}",
            description="Largest number of connections in use",
        )

    def context(self, spec: ServiceSpec[Any]) -> ServiceContext[Any]:
        """Return everything that a service may use to build itself."""
        database = self._open_database(spec)
        return ServiceContext(
            settings=getattr(self._settings, spec.name),
            database=database,
            issuers=self._settings.issuers,
            http_for=self._http_for,
            issuer_asked=self._issuers.issuer_asked,
            client_tls=self._settings.tls,
            channel_options=self._hooks.channel_options,
            rules=self._rules,
            logger=self._telemetry.logger,
            tracer=self._telemetry.tracer,
            meter=self._telemetry.meter,
            clock=self._hooks.clock,
            monotonic=self._hooks.monotonic,
            exit_stack=self._stack,
            standbys=self._standbys.open(spec, database),
        )

    async def build(self, spec: ServiceSpec[Any], context: ServiceContext[Any]) -> BuiltServer:
        """Build a service without starting anything.

        Args:
            spec: The service.
            context: What `context` returned for it.

        Raises:
            ConfigurationError: A setting of the service is missing or invalid.
            PolicyError: One of its RPCs has no access rule.
        """
        built = await spec.build(context)
        readiness = self._readiness(spec, context.database)
        server = Server(
            [Service(spec.register, built.servicer)],
            verifier=self.verifier,
            tls=self._settings.tls,
            telemetry=ServerTelemetry(self._telemetry.logger, self._tracer(), self._metrics),
            settings=self._settings.server,
            problems=lambda: self._problems(spec, readiness),
            interceptors=self._hooks.interceptors,
            observers=self._hooks.observers,
            clock=self._hooks.clock,
        )
        return BuiltServer(server, (*built.background, readiness))

    async def start(self, spec: ServiceSpec[Any]) -> Server:
        """Build a service and start its background work; see `build`.

        Returns:
            Its server, not started yet.
        """
        built = await self.build(spec, self.context(spec))
        for work in built.background:
            await work.start()
            self._stack.push_async_callback(work.aclose)
        self._warn_of_online_rules(built.server)
        return built.server

    def _tracer(self) -> Tracer | None:
        tracer = self._telemetry.tracer
        return None if isinstance(tracer, NoOpTracer) else tracer

    def _open_database(self, spec: ServiceSpec[Any]) -> Database:
        database = open_database(self._settings, spec, self._tracer())
        self._stack.push_async_callback(database.aclose)
        self._pools[spec.name] = database
        return database

    def _readiness(self, spec: ServiceSpec[Any], database: Database) -> Readiness:
        logger = self._telemetry.logger

        def on_change(reason: str, detail: str) -> None:
            if not reason:
                logger.info("database ready", database=spec.name)
                return
            hint = _DATABASE_HINTS.get(reason, f"run `gatehouse doctor {spec.name}`")
            logger.warning("database not ready", database=spec.name, reason=reason, detail=detail, hint=hint)

        return Readiness(database, spec.probe, writable=not spec.read_only, on_change=on_change)

    def _problems(self, spec: ServiceSpec[Any], readiness: Readiness) -> Sequence[str]:
        """Return why a service is not ready."""
        problems = [] if readiness.ready else [f"database: {readiness.reason or 'STARTING'}"]
        if spec.needs_issuer and not self.verifier.ready:
            problems += self._issuers.problems() or ["issuers: STARTING"]
        return problems

    def online_rules(self, server: Server) -> tuple[Sequence[str], Sequence[str]]:
        """Return the issuers that are never asked about a token, and the RPCs that ask them on each call."""
        issuers = [issuer.issuer for issuer in self._settings.issuers if issuer.mode == "jwt"]
        return issuers, [path[1:] for path, rule in server.policy.rules.items() if rule.online]

    def _warn_of_online_rules(self, server: Server) -> None:
        """Warn at start about RPCs that cannot be called with the tokens of an issuer."""
        issuers, methods = self.online_rules(server)
        if methods and issuers:
            self._telemetry.logger.warning(
                "online access rules need introspection", issuers=issuers, methods=methods
            )

    def _observe_pools(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(d.pool_in_use(), {"service": name}) for name, d in self._pools.items()]

    def _observe_pool_limits(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(self._settings.database.pool_size, {"service": name}) for name in self._pools]


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
