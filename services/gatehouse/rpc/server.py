"""A gRPC server with the interceptor chain, health, reflection, limits, TLS and graceful shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from opentelemetry.trace import Tracer
from structlog.typing import FilteringBoundLogger

from gatehouse.oauth import TokenVerifier
from gatehouse.rpc._drain import Drain
from gatehouse.rpc._grpc_log import redact_grpc_log
from gatehouse.rpc._registration import Service, collect_handlers, find_descriptors
from gatehouse.rpc.authorization import AuthorizationInterceptor
from gatehouse.rpc.call import Interceptor, Method
from gatehouse.rpc.errors import ErrorsInterceptor
from gatehouse.rpc.health import Health
from gatehouse.rpc.limits import LimitsInterceptor, MetadataInterceptor
from gatehouse.rpc.logging import LoggingInterceptor
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import Policy, PolicyOptions
from gatehouse.rpc.reflection import reflection_services
from gatehouse.rpc.router import Router
from gatehouse.rpc.tls import server_credentials
from gatehouse.rpc.tracing import TracingInterceptor
from gatehouse.settings import ServerSettings, TlsSettings

_HEALTH = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class ServerTelemetry:
    """Where a server logs, traces and measures.

    Attributes:
        logger: Gets a line for each RPC.
        tracer: Records spans; None records none.
        metrics: Metrics of RPCs; by default they are not exported.
    """

    logger: FilteringBoundLogger
    tracer: Tracer | None = None
    metrics: RpcMetrics = field(default_factory=RpcMetrics)


class Server:
    """A gRPC server.

    Args:
        services: Servicers with their generated registration functions.
        verifier: Verifies access tokens.
        tls: Certificate, or permission to use plaintext.
        telemetry: Logs, traces and metrics.
        settings: Address, limits and reflection; all defaults if None.
        policy: Access rules for RPCs whose protos have none.
        problems: Returns why the services are not ready, nothing if they are; polled for the health service.
        interceptors: Additional interceptors, called after authorization.
        observers: Additional interceptors around the whole chain, called for every call.
        clock: Seconds since the epoch.

    Raises:
        PolicyError: An RPC has no access rule, or a rule is invalid.
        TlsError: The certificate is unusable, or plaintext is not allowed.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        verifier: TokenVerifier,
        tls: TlsSettings,
        telemetry: ServerTelemetry,
        settings: ServerSettings | None = None,
        policy: PolicyOptions | None = None,
        problems: Callable[[], Sequence[str]] = tuple,
        interceptors: Sequence[Interceptor] = (),
        observers: Sequence[Interceptor] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings = settings or ServerSettings()
        self._metrics, self._logger = telemetry.metrics, telemetry.logger
        self._credentials = server_credentials(
            tls, settings.host, self._logger, self._metrics.certificate_loaded
        )
        self._find_problems = problems
        self._drain = Drain()
        self._stop_now = asyncio.Event()

        handlers = collect_handlers(services)
        self.service_names = sorted({path.split("/")[1] for path in handlers})
        self._health = Health(self.service_names)
        health = collect_handlers([Service(health_pb2_grpc.add_HealthServicer_to_server, self._health)])
        reflection = collect_handlers(
            reflection_services([*self.service_names, _HEALTH]) if settings.reflection else ()
        )
        options = (policy or PolicyOptions()).with_public(health)
        if not options.has_rule_for(reflection):  # a rule for v1alpha must not leave v1 public
            options = options.with_public(reflection)
        handlers |= health | reflection
        self.policy = Policy.of(handlers, find_descriptors(handlers), options)
        methods = [Method.of(path, self.policy[path], handler) for path, handler in handlers.items()]
        self._log_lines = LoggingInterceptor(telemetry.logger)
        chain: list[Interceptor] = [
            *observers,
            TracingInterceptor(telemetry.tracer),
            self._metrics,
            self._log_lines,
            ErrorsInterceptor(telemetry.logger),
            MetadataInterceptor(settings.max_metadata_bytes),
            LimitsInterceptor(settings),
            AuthorizationInterceptor(
                verifier, self._metrics, recheck_seconds=settings.recheck_seconds, clock=clock
            ),
            *interceptors,
        ]
        self._router = Router(methods, chain, self._drain, settings.max_metadata_bytes)
        self._running: tuple[grpc.aio.Server, asyncio.Task[None]] | None = None

    @property
    def problems(self) -> Sequence[str]:
        """Why the health service reports NOT_SERVING; nothing if it reports SERVING."""
        return self._health.problems

    async def start(self, port: int = 0, *, reuse_port: bool = False) -> int:
        """Start to listen, and return the port.

        Args:
            port: Port to listen on; 0 takes a free one.
            reuse_port: Whether other processes listen on the same port (SO_REUSEPORT).

        Raises:
            OSError: The port is not available.
        """
        redact_grpc_log()
        host = self._settings.host
        server = grpc.aio.server(options=self._options(reuse_port=reuse_port))
        server.add_generic_rpc_handlers((self._router,))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise OSError(
                f"{address}: cannot listen; correct host or port, or stop what uses the port"
            ) from None
        problems = list(self._find_problems())
        self._health.set_problems(problems)
        await server.start()
        self._running = server, asyncio.create_task(self._poll_problems(problems))
        self._logger.info("listening", address=f"{host}:{port}", services=self.service_names)
        return port

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Report NOT_SERVING, refuse new calls, wait for calls in progress, and cancel those that remain.

        Args:
            drain_seconds: Longest time to wait; None takes that of the settings. A second call with a shorter
                time stops the server earlier.
        """
        if self._running is None:
            return
        seconds = self._settings.drain_seconds if drain_seconds is None else drain_seconds
        server, polling = self._running
        polling.cancel()
        self._health.end()
        if seconds <= 0:
            self._stop_now.set()
        elif not self._drain.started.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.stop_delay_seconds):
                    await self._stop_now.wait()
        try:
            if seconds > 0 and not self._stop_now.is_set():
                await self._drain.hold_calls()
            # With 0 instead of None, a second stop may cancel the calls of a server that the first has just
            # destroyed: grpcio crashes.
            grace = None if self._stop_now.is_set() else seconds
            stopping = asyncio.create_task(server.stop(grace))
            await asyncio.sleep(0)  # let gRPC announce the shutdown to its clients
        finally:
            self._drain.release_calls()
            # After the announcement, so that a client reopens its stream on another server.
            self._drain.started.set()
        try:
            await stopping
        finally:
            self.flush()

    def flush(self) -> None:
        """Write the log lines and record the durations of calls that have ended."""
        self._metrics.flush()
        self._log_lines.flush()

    def _options(self, *, reuse_port: bool) -> list[tuple[str, int]]:
        settings = self._settings
        return [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_metadata_size", settings.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
            ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
            # Otherwise streams that have ended but are not yet cleaned up count, and gRPC refuses calls of
            # clients that respect the limit; see tests/rpc/test_limits.py.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace_seconds * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", int(reuse_port)),
        ]

    async def _poll_problems(self, last: list[str]) -> None:
        while True:
            await asyncio.sleep(self._settings.health_poll_seconds)
            problems = list(self._find_problems())
            if problems == last:
                continue
            if not problems:
                self._logger.info("readiness changed", ready=True)
            elif not last:
                self._logger.warning("readiness changed", ready=False, problems=problems)
            self._health.set_problems(problems)
            last = problems
