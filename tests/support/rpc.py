"""A probe service with all four shapes, and a verifier that knows a table of tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import structlog
from gatehouse.oauth import InvalidToken, Principal
from gatehouse.rpc import AccessRule, Server, ServerLimits, ServerTls, Service
from google.protobuf import wrappers_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.support.steady import ManyAnswers, OneAnswer

PROBE = "probe.v1.Probe"
SHAPES = ["OneOne", "OneMany", "OneManyByWrite", "ManyOne", "ManyMany"]
Text = wrappers_pb2.StringValue


async def eventually(predicate: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until `predicate` holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not predicate():
            await asyncio.sleep(0.005)


async def reached(count: Callable[[], int], wanted: int) -> None:
    """Waits until `count` is `wanted` or more."""
    await eventually(lambda: count() >= wanted)


def details_of(trailers: Any) -> list[Any]:
    """Returns the ErrorInfo and BadRequest messages of a status."""
    found: list[Any] = []
    for packed in status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"]).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                found.append(message)
    return found


def error_info(trailers: Any) -> Any:
    """Returns the ErrorInfo of a status, which every status of the platform has first."""
    info = details_of(trailers)[0]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "gatehouse"
    return info


def service_of(name: str, **behaviors: Any) -> Service:
    """Makes a service of unary RPCs over Text out of async functions."""

    def add(_: object, server: Any) -> None:
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(behavior, Text.FromString, Text.SerializeToString)
            for method, behavior in behaviors.items()
        }
        server.add_registered_method_handlers(name, handlers)

    return Service(add, object())


def principal(*scopes: str, roles: tuple[str, ...] = (), lives: float = 300.0, **more: Any) -> Principal:
    """Makes a principal whose token lives for `lives` seconds."""
    return Principal(
        issuer="https://issuer.test",
        subject=more.pop("subject", "subject-of-alice"),
        client_id="console",
        scopes=frozenset(scopes),
        roles=frozenset(roles),
        expires_at=time.time() + lives,
        **more,
    )


class TableVerifier:
    """Knows the tokens that it was told; `asked` says for which it was asked, and how."""

    def __init__(self) -> None:
        self.answers: dict[str, Principal | Exception] = {}
        self.asked: list[tuple[str, bool]] = []
        self.hangs = False
        self.before: Callable[[str], Awaitable[object]] | None = None
        self.memory: dict[str, Principal] = {}

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """See TokenVerifier."""
        self.asked.append((token, online))
        if self.before is not None:
            await self.before(token)
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.get(token, InvalidToken("token_inactive"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def remembered(self, token: str) -> Principal | None:
        """See TokenVerifier; what it remembers, it was told."""
        return self.memory.get(token)


Behavior = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Any]


@dataclass
class Probe:
    """A servicer whose RPCs echo.

    What they do can be replaced; parsing is counted, and so are request streams that were read to their end.
    """

    parsed: list[bytes] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    completed: int = 0
    on_message: Callable[[Text, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]] | None = None

    def parse(self, raw: bytes) -> Text:
        self.parsed.append(raw)
        return Text.FromString(raw)

    async def _see(self, request: Text, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.handled.append(request.value)
        if self.on_message is not None:
            await self.on_message(request, context)

    async def one_one(self, request: Text, context: grpc.aio.ServicerContext[Any, Any]) -> Text:
        await self._see(request, context)
        return Text(value=request.value)

    async def one_many(
        self, request: Text, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Text]:
        await self._see(request, context)
        for _ in range(3):
            yield Text(value=request.value)

    async def one_many_by_write(self, request: Text, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await self._see(request, context)
        for _ in range(3):
            await context.write(Text(value=request.value))

    async def many_one(
        self, requests: AsyncIterator[Text], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Text:
        values = []
        async for request in requests:
            await self._see(request, context)
            values.append(request.value)
        self.completed += 1
        return Text(value=",".join(values))

    async def many_many(
        self, requests: AsyncIterator[Text], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Text]:
        async for request in requests:
            await self._see(request, context)
            yield Text(value=request.value)
        self.completed += 1

    def service(self) -> Service:
        """The service as generated code would register it."""

        def add(_: object, server: Any) -> None:
            make: dict[str, tuple[Any, Any]] = {
                "OneOne": (grpc.unary_unary_rpc_method_handler, self.one_one),
                "OneMany": (grpc.unary_stream_rpc_method_handler, self.one_many),
                "OneManyByWrite": (grpc.unary_stream_rpc_method_handler, self.one_many_by_write),
                "ManyOne": (grpc.stream_unary_rpc_method_handler, self.many_one),
                "ManyMany": (grpc.stream_stream_rpc_method_handler, self.many_many),
            }
            handlers: Any = {
                name: wrap(behavior, self.parse, Text.SerializeToString)
                for name, (wrap, behavior) in make.items()
            }
            server.add_registered_method_handlers(PROBE, handlers)

        return Service(add, self)


@dataclass
class Client:
    """Calls the probe in any shape and says how it ended; request streams go over `steady`, if given."""

    channel: grpc.aio.Channel
    steady: grpc.Channel | None = None

    def call(
        self, name: str, *values: str, token: str | None = "good", metadata: Any = None, timeout: float = 10.0
    ) -> Any:
        """Opens a call; `token` becomes its authorization unless `metadata` is given."""
        if metadata is None:
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        path = f"/{PROBE}/{name}" if "/" not in name else name
        serialize, parse = Text.SerializeToString, Text.FromString
        if self.steady is not None and name.startswith("Many"):
            steady_call = ManyAnswers if name == "ManyMany" else OneAnswer
            raw = [Text(value=value).SerializeToString() for value in values]
            return steady_call(parse, self.steady, path, raw, metadata=metadata, timeout=timeout)
        shapes = {
            "OneMany": self.channel.unary_stream,
            "OneManyByWrite": self.channel.unary_stream,
            "ManyOne": self.channel.stream_unary,
            "ManyMany": self.channel.stream_stream,
        }
        stub: Any = shapes.get(name, self.channel.unary_unary)(path, serialize, parse)
        argument = [Text(value=v) for v in values] if name.startswith("Many") else Text(value="".join(values))
        return stub(argument, metadata=metadata, timeout=timeout)

    async def outcome(self, name: str, *values: str, **more: Any) -> tuple[grpc.StatusCode, Any, list[str]]:
        """Makes a call and returns its code, its trailing metadata and the values of the answers."""
        call = self.call(name, *values, **more)
        answers: list[str] = []
        try:
            if name in {"OneMany", "OneManyByWrite", "ManyMany"}:
                # One by one: those before a failure count too.
                async for message in call:
                    answers += [message.value]
            else:
                answers = [(await call).value]
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        return await call.code(), dict(await call.trailing_metadata() or ()), answers


@dataclass
class Stand:
    """A server with the probe, and a client on it."""

    server: Server
    probe: Probe
    verifier: TableVerifier
    client: Client
    port: int
    log: list[dict[str, Any]]

    def lines(self) -> list[dict[str, Any]]:
        """The lines of RPCs that are over."""
        self.server.flush()
        return [line for line in self.log if line["event"] == "rpc"]

    async def line(self) -> dict[str, Any]:
        """The line of the first RPC, once it is over."""
        await eventually(self.lines)
        return self.lines()[0]


def open_stand_factory() -> Callable[..., Any]:
    """Makes the context manager that opens stands."""

    @asynccontextmanager
    async def open_stand(**settings: Any) -> AsyncIterator[Stand]:
        probe, verifier = Probe(), TableVerifier()
        verifier.answers["good"] = principal("use:probe")
        verifier.answers["weak"] = principal("other")
        lines: list[dict[str, Any]] = []

        def keep(_: object, level: str, event: dict[str, Any]) -> str:
            lines.append({**event, "level": level})
            raise structlog.DropEvent

        settings.setdefault("method_scopes", {})
        settings.setdefault("default_scopes", ["use:probe"])
        client_options = settings.pop("client_options", ())
        settings.setdefault("tls", ServerTls(plaintext=True))
        server = Server(
            [probe.service(), *settings.pop("services", ())],
            verifier=verifier,
            logger=settings.pop("logger", structlog.wrap_logger(None, processors=[cast("Any", keep)])),
            limits=settings.pop("limits", ServerLimits(health_poll=0.02)),
            **settings,
        )
        port = await server.start()
        target = f"127.0.0.1:{port}"
        steady = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        async with grpc.aio.insecure_channel(target, client_options) as channel:
            try:
                yield Stand(server, probe, verifier, Client(channel, steady), port, lines)
            finally:
                await server.stop(0)
                steady.close()

    return open_stand


@pytest.fixture
def open_stand() -> Callable[..., Any]:
    """Opens a server with the probe service."""
    return open_stand_factory()


@pytest.fixture
async def stand(open_stand: Callable[..., Any]) -> AsyncIterator[Stand]:
    """A server with the probe service whose RPCs all need `use:probe`."""
    async with open_stand() as opened:
        yield opened


__all__ = [
    "PROBE",
    "SHAPES",
    "AccessRule",
    "Client",
    "Probe",
    "Stand",
    "TableVerifier",
    "Text",
    "details_of",
    "error_info",
    "eventually",
    "principal",
    "reached",
    "service_of",
]
