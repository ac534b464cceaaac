"""A gRPC server with everything on: chain, health, reflection, limits, TLS, and an end that loses no call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import protovalidate
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from opentelemetry.trace import Tracer
from structlog.typing import FilteringBoundLogger

from gatehouse.oauth import TokenVerifier
from gatehouse.rpc._adapter import Service, collect, shape_of
from gatehouse.rpc._intake import Intake
from gatehouse.rpc.authorization import AuthorizationInterceptor
from gatehouse.rpc.call import Interceptor, Method
from gatehouse.rpc.chain import Router
from gatehouse.rpc.errors import ErrorsInterceptor
from gatehouse.rpc.health import Health
from gatehouse.rpc.limits import LimitsInterceptor, MetadataInterceptor
from gatehouse.rpc.logging import LoggingInterceptor
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import AccessRule, Policy
from gatehouse.rpc.tls import ServerTls
from gatehouse.rpc.tracing import TracingInterceptor

_HEALTH = "grpc.health.v1.Health"
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server bears; sizes in bytes, times in seconds."""

    max_message_bytes: int = 4 * 1024 * 1024
    max_metadata_bytes: int = 16 * 1024
    max_concurrent_streams: int = 100
    max_concurrent_rpcs: int = 1000
    max_watches_per_connection: int = 32
    max_watches: int = 1000
    max_connection_age: float = 1800.0
    max_connection_age_grace: float = 30.0
    max_deadline: float = 30.0
    max_stream_deadline: float = 3600.0
    drain: float = 20.0
    recheck: float = 30.0
    health_poll: float = 0.25


class Server:
    """One gRPC server.

    Args:
        services: The services, registered by their generated functions.
        verifier: Turns tokens into principals.
        tls: How the server shows who it is.
        logger: Gets a line for each RPC.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: What the server bears.
        tracer: Makes spans; None makes none.
        metrics: Measures; None measures nothing.
        readiness: Says, by service name, whether a service can work now; "" for all of them.
        reflection: Whether reflection is on.
        reuse_port: Whether several processes share the port (SO_REUSEPORT).
        method_scopes: Rules for RPCs whose protos have none; see Policy.of.
        default_scopes: Likewise.
        public_methods: Likewise.
        interceptors: Further layers, between authorization and the handler.

    Raises:
        PolicyError: An RPC has no rule, or a rule is wrong.
        TlsError: The certificate cannot be used.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        verifier: TokenVerifier,
        tls: ServerTls,
        logger: FilteringBoundLogger,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ServerLimits | None = None,
        tracer: Tracer | None = None,
        metrics: RpcMetrics | None = None,
        readiness: Callable[[], bool] = lambda: True,
        reflection: bool = False,
        reuse_port: bool = False,
        method_scopes: Mapping[str, Sequence[str] | AccessRule] | None = None,
        default_scopes: Sequence[str] = (),
        public_methods: Sequence[str] = (),
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self._logger = logger
        self._host = host
        self._port = port
        self._limits = limits = limits or ServerLimits()
        self._readiness = readiness
        self._intake = Intake()
        self._credentials = tls.credentials(host)
        self._reuse_port = reuse_port

        own = collect(services)
        self.service_names = sorted({path.split("/")[1] for path in own})
        self._health = Health(self.service_names)
        platform = [Service(health_pb2_grpc.add_HealthServicer_to_server, self._health)]
        if reflection:
            platform.append(self._reflection())
        found = {**own, **collect(platform)}
        given = {name.lstrip("/") for name in (*(method_scopes or ()), *public_methods)}
        free = [path for path in found if path.split("/")[1] in {_HEALTH, _REFLECTION}]
        self.policy = Policy.of(
            found,
            _descriptors(found),
            method_scopes=method_scopes,
            default_scopes=default_scopes,
            public_methods=[*public_methods, *(path for path in free if path[1:] not in given)],
        )
        methods = [
            Method(
                path,
                path.split("/")[1],
                shape_of(handler),
                self.policy[path],
                handler,
                not path.startswith(f"/{_HEALTH}/"),
            )
            for path, handler in found.items()
        ]
        self._metrics = metrics = metrics or RpcMetrics()
        self._log_lines = LoggingInterceptor(logger)
        chain: list[Interceptor] = [
            TracingInterceptor(tracer),
            metrics,
            self._log_lines,
            ErrorsInterceptor(logger),
            MetadataInterceptor(limits.max_metadata_bytes),
            LimitsInterceptor(
                max_concurrent_rpcs=limits.max_concurrent_rpcs,
                max_deadline_seconds=limits.max_deadline,
                max_stream_deadline_seconds=limits.max_stream_deadline,
                max_watches_per_connection=limits.max_watches_per_connection,
                max_watches=limits.max_watches,
            ),
            AuthorizationInterceptor(verifier, metrics, recheck_seconds=limits.recheck),
            *interceptors,
        ]
        self._router = Router(
            methods, chain, protovalidate.Validator(), self._intake, limits.max_metadata_bytes
        )
        self._running: tuple[grpc.aio.Server, asyncio.Task[None]] | None = None

    async def start(self) -> int:
        """Begins to listen and returns the port.

        Raises:
            OSError: The port cannot be had.
        """
        server = grpc.aio.server(options=self._options())
        server.add_generic_rpc_handlers((self._router,))
        address = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        try:
            if self._credentials is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise OSError(f"{address}: cannot listen there; another process may have the port") from None
        ready = self._readiness()
        self._health.set_ready(ready=ready)
        await server.start()
        self._running = server, asyncio.create_task(self._follow_forever(ready))
        self._logger.info("listening", address=f"{self._host}:{self._port}", services=self.service_names)
        return self._port

    async def stop(self, drain: float | None = None) -> None:
        """Stops: NOT_SERVING, no new calls, those under way may end within `drain` seconds, then none.

        A second call, with a shorter `drain`, hastens the end; 0 ends at once, and loses what is under way.
        """
        if self._running is None:
            return
        seconds = self._limits.drain if drain is None else drain
        server, following = self._running
        following.cancel()
        self._health.end()
        try:
            if seconds > 0:
                await self._intake.close()
            stopping = asyncio.create_task(server.stop(seconds))
            await asyncio.sleep(0)  # gRPC has been told, and tells its clients
        finally:
            self._intake.open()
            # Not before: a stream that ends now is opened again elsewhere, and not here.
            self._intake.draining.set()
        try:
            await stopping
        finally:
            self.flush()

    def flush(self) -> None:
        """Write the log lines and record the durations of calls that have ended."""
        self._metrics.flush()
        self._log_lines.flush()

    def _options(self) -> list[tuple[str, int]]:
        limits = self._limits
        return [
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
            ("grpc.max_metadata_size", limits.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
            ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
            # Else the limit counts streams that are over and not yet cleared away, and a client that keeps
            # to it is refused every other call; tests/rpc/test_limits.py.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_connection_age_ms", int(limits.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(limits.max_connection_age_grace * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", int(self._reuse_port)),
        ]

    def _reflection(self) -> Service:
        from grpc_reflection.v1alpha._async import ReflectionServicer  # noqa: PLC0415 - only when it is on

        names = [*self.service_names, _HEALTH, reflection.SERVICE_NAME]
        return Service(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, ReflectionServicer(names))

    async def _follow_forever(self, ready: bool) -> None:  # noqa: FBT001 - private
        while True:
            await asyncio.sleep(self._limits.health_poll)
            if self._readiness() != ready:
                ready = not ready
                self._logger.warning("readiness changed", ready=ready)
                self._health.set_ready(ready=ready)


def _descriptors(paths: Mapping[str, object]) -> dict[str, MethodDescriptor]:
    pool = descriptor_pool.Default()
    found = {}
    for path in paths:
        _, service, name = path.split("/")
        with contextlib.suppress(KeyError):
            found[path] = pool.FindServiceByName(service).methods_by_name[name]
    return found
