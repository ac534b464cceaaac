"""A server with a probe service of all RPC types, a verifier with a table of tokens, and a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf import wrappers_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.trace import Tracer

from gatehouse.oauth import InvalidToken, Precheck, PresentedToken, Principal, TokenVerifier, no_precheck
from gatehouse.rpc import PolicyOptions, RpcMetrics, Server, ServerTelemetry, Service
from gatehouse.settings import ServerSettings, TlsSettings
from tests.support.eventually import eventually
from tests.support.sync_calls import SyncStreamStreamCall, SyncStreamUnaryCall

PROBE = "probe.v1.Probe"
PROBLEM = "database: DATABASE_UNAVAILABLE"
# A server stream can be written by a generator or by `context.write`.
METHODS = ["Unary", "ServerStream", "ServerStreamByWrite", "ClientStream", "BidiStream"]
PLAINTEXT = TlsSettings(plaintext=True)
Text = wrappers_pb2.StringValue
Context = grpc.aio.ServicerContext[Any, Any]


async def reached(count: Callable[[], int], wanted: int) -> None:
    """Wait until `count` is at least `wanted`."""
    await eventually(lambda: count() >= wanted)


def details_of(trailers: Any) -> list[Any]:
    """Return the ErrorInfo and BadRequest messages of a status."""
    found: list[Any] = []
    for packed in status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"]).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                found.append(message)
    return found


def error_info(trailers: Any) -> Any:
    """Return the ErrorInfo of a status, which is always its first detail."""
    info = details_of(trailers)[0]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "gatehouse"
    return info


def service_of(name: str, *, wrap: Any = grpc.unary_unary_rpc_method_handler, **handlers: Any) -> Service:
    """Return a service over Text whose RPCs, unary unless `wrap` says otherwise, are async functions."""

    def add(_: object, server: Any) -> None:
        wrapped = {
            method: wrap(handler, Text.FromString, Text.SerializeToString)
            for method, handler in handlers.items()
        }
        server.add_registered_method_handlers(name, wrapped)

    return Service(add, object())


def principal(*scopes: str, roles: tuple[str, ...] = (), lifetime: float = 300.0, **more: Any) -> Principal:
    """Return a principal whose token is valid for `lifetime` seconds."""
    return Principal(
        issuer=more.pop("issuer", "https://issuer.test"),
        subject=more.pop("subject", "subject-of-alice"),
        client_id="console",
        scopes=frozenset(scopes),
        roles=frozenset(roles),
        expires_at=time.time() + lifetime,
        **more,
    )


class TableVerifier:
    """Verify tokens by a table.

    Attributes:
        answers: What to return or raise, by token.
        asked: Each token that was verified, and whether online.
        sources: The `source` of each verification.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Principal | Exception] = {}
        self.asked: list[tuple[str, bool]] = []
        self.sources: list[str] = []
        self.hangs = False
        self.before: Callable[[str], Awaitable[object]] | None = None

    async def verify(
        self,
        token: PresentedToken,
        *,
        online: bool = False,
        precheck: Precheck = no_precheck,
        source: str = "",
    ) -> Principal:
        """See TokenVerifier.verify."""
        self.asked.append((token.value, online))
        self.sources.append(source)
        if self.before is not None:
            await self.before(token.value)
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.get(token.value, InvalidToken("token_inactive"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Probe:
    """A servicer whose RPCs echo their requests.

    Attributes:
        parsed: The requests that were parsed.
        handled: The values of the requests that handlers received.
        completed: How many request streams were read to their end.
        on_message: Called by handlers with each request.
    """

    parsed: list[bytes] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    completed: int = 0
    on_message: Callable[[Text, Context], Awaitable[None]] | None = None

    def parse(self, raw: bytes) -> Text:
        self.parsed.append(raw)
        return Text.FromString(raw)

    async def _handle(self, request: Text, context: Context) -> None:
        self.handled.append(request.value)
        if self.on_message is not None:
            await self.on_message(request, context)

    async def unary(self, request: Text, context: Context) -> Text:
        await self._handle(request, context)
        return Text(value=request.value)

    async def server_stream(self, request: Text, context: Context) -> AsyncIterator[Text]:
        await self._handle(request, context)
        for _ in range(3):
            yield Text(value=request.value)

    async def server_stream_by_write(self, request: Text, context: Context) -> None:
        await self._handle(request, context)
        for _ in range(3):
            await context.write(Text(value=request.value))

    async def client_stream(self, requests: AsyncIterator[Text], context: Context) -> Text:
        values = []
        async for request in requests:
            await self._handle(request, context)
            values.append(request.value)
        self.completed += 1
        return Text(value=",".join(values))

    async def bidi_stream(self, requests: AsyncIterator[Text], context: Context) -> AsyncIterator[Text]:
        async for request in requests:
            await self._handle(request, context)
            yield Text(value=request.value)
        self.completed += 1

    def service(self) -> Service:
        """Return the service as generated code would register it."""

        def add(_: object, server: Any) -> None:
            methods: dict[str, tuple[Any, Any]] = {
                "Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
                "ServerStream": (grpc.unary_stream_rpc_method_handler, self.server_stream),
                "ServerStreamByWrite": (grpc.unary_stream_rpc_method_handler, self.server_stream_by_write),
                "ClientStream": (grpc.stream_unary_rpc_method_handler, self.client_stream),
                "BidiStream": (grpc.stream_stream_rpc_method_handler, self.bidi_stream),
            }
            handlers: Any = {
                name: wrap(function, self.parse, Text.SerializeToString)
                for name, (wrap, function) in methods.items()
            }
            server.add_registered_method_handlers(PROBE, handlers)

        return Service(add, self)


@dataclass
class Client:
    """Call the probe. Request streams use `sync_channel` if there is one; see tests/support/sync_calls.py."""

    channel: grpc.aio.Channel
    sync_channel: grpc.Channel | None = None

    def call(
        self, name: str, *values: str, token: str | None = "good", metadata: Any = None, timeout: float = 10.0
    ) -> Any:
        """Start a call; `token` becomes its authorization unless `metadata` is given."""
        if metadata is None:
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        path = f"/{PROBE}/{name}" if "/" not in name else name
        serialize, parse = Text.SerializeToString, Text.FromString
        if self.sync_channel is not None and name in {"ClientStream", "BidiStream"}:
            sync_call = SyncStreamStreamCall if name == "BidiStream" else SyncStreamUnaryCall
            raw = [Text(value=value).SerializeToString() for value in values]
            return sync_call(parse, self.sync_channel, path, raw, metadata=metadata, timeout=timeout)
        stubs = {
            "ServerStream": self.channel.unary_stream,
            "ServerStreamByWrite": self.channel.unary_stream,
            "ClientStream": self.channel.stream_unary,
            "BidiStream": self.channel.stream_stream,
        }
        stub: Any = stubs.get(name, self.channel.unary_unary)(path, serialize, parse)
        if name in {"ClientStream", "BidiStream"}:
            return stub([Text(value=value) for value in values], metadata=metadata, timeout=timeout)
        return stub(Text(value="".join(values)), metadata=metadata, timeout=timeout)

    async def outcome(self, name: str, *values: str, **more: Any) -> tuple[grpc.StatusCode, Any, list[str]]:
        """Make a call; return its code, its trailing metadata and the values of its responses."""
        call = self.call(name, *values, **more)
        responses: list[str] = []
        try:
            if name in {"ServerStream", "ServerStreamByWrite", "BidiStream"}:
                # One by one, to keep those before a failure.
                async for message in call:
                    responses += [message.value]
            else:
                responses = [(await call).value]
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        return await call.code(), dict(await call.trailing_metadata() or ()), responses


def line_keeper(lines: list[dict[str, Any]]) -> Any:
    """Return a logger that appends its lines to `lines`."""

    def keep(_: object, level: str, event: dict[str, Any]) -> str:
        lines.append({**event, "level": level})
        raise structlog.DropEvent

    return structlog.wrap_logger(None, processors=[cast("Any", keep)])


@dataclass
class Env:
    """A running server with the probe service, and a client for it."""

    server: Any
    probe: Probe
    verifier: TableVerifier
    client: Client
    port: int
    log: list[dict[str, Any]]

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines of RPCs that have ended."""
        self.server.flush()
        return [line for line in self.log if line["event"] == "rpc"]

    async def line_of(self, request_id: str) -> dict[str, Any]:
        """Return the log line of the RPC with this `x-request-id` when it has ended."""

        def find() -> list[dict[str, Any]]:
            return [line for line in self.lines() if line["request_id"] == request_id]

        await eventually(find)
        return find()[0]

    async def line(self) -> dict[str, Any]:
        """Return the log line of the first RPC when it has ended."""
        await eventually(self.lines)
        return self.lines()[0]


@asynccontextmanager
async def open_env(
    *,
    services: Sequence[Service] = (),
    token_verifier: TokenVerifier | None = None,
    tls: TlsSettings = PLAINTEXT,
    logger: Any = None,
    tracer: Tracer | None = None,
    metrics: RpcMetrics | None = None,
    readiness: Callable[[], bool] = lambda: True,
    port: int = 0,
    method_scopes: Any = None,
    default_scopes: Sequence[str] = ("use:probe",),
    public_methods: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[Env]:
    """Start a server with the probe service and `services`; `settings` are fields of ServerSettings.

    `token_verifier` replaces the verifier with a table of tokens.
    """
    probe, verifier = Probe(), TableVerifier()
    verifier.answers["good"] = principal("use:probe")
    verifier.answers["weak"] = principal("other")
    lines: list[dict[str, Any]] = []

    server = Server(
        [probe.service(), *services],
        verifier=token_verifier or verifier,
        tls=tls,
        telemetry=ServerTelemetry(
            logger or line_keeper(lines),
            tracer,
            metrics or RpcMetrics(),
        ),
        settings=ServerSettings(**{"health_poll_seconds": 0.02, **settings}),
        policy=PolicyOptions(method_scopes or {}, default_scopes, public_methods),
        problems=lambda: () if readiness() else (PROBLEM,),
    )
    port = await server.start(port)
    target = f"127.0.0.1:{port}"
    sync_channel = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            yield Env(server, probe, verifier, Client(channel, sync_channel), port, lines)
        finally:
            await server.stop(0)
            sync_channel.close()


@pytest.fixture
async def env() -> AsyncIterator[Env]:
    """A server with the probe service, whose RPCs all need the scope `use:probe`."""
    async with open_env() as opened:
        yield opened
