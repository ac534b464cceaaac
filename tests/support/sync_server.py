"""A synchronous `grpc.server` with the probe service, behind the same environment as the asyncio server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc

from gatehouse.background import BackgroundLoop
from gatehouse.rpc import PolicyOptions
from gatehouse.rpc.sync import OAuth2ServerInterceptor
from gatehouse.settings import ServerSettings
from tests.support.rpc import METHODS, PROBE, Client, Env, Probe, TableVerifier, Text, line_keeper, principal


class SyncProbe(Probe):
    """The probe with synchronous handlers. `on_message` runs in an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = set()

    def _react(self, request: Text, context: Any) -> None:
        self.handled.append(request.value)
        if self.on_message is not None:
            asyncio.run(self._on_message(request, context))

    async def _on_message(self, request: Text, context: Any) -> None:
        assert self.on_message is not None
        task = asyncio.ensure_future(self.on_message(request, context))
        entry = (asyncio.get_running_loop(), task)
        self._running.add(entry)
        try:
            await task
        finally:
            self._running.discard(entry)

    def cancel(self) -> None:
        """End the handlers that still run."""
        for loop, task in list(self._running):
            loop.call_soon_threadsafe(task.cancel)

    def sync_unary(self, request: Text, context: Any) -> Text:
        self._react(request, context)
        return Text(value=request.value)

    def sync_server_stream(self, request: Text, context: Any) -> Iterator[Text]:
        self._react(request, context)
        for _ in range(3):
            yield Text(value=request.value)

    def sync_server_stream_as_list(self, request: Text, context: Any) -> list[Text]:
        self._react(request, context)
        return [Text(value=request.value)] * 3

    def sync_client_stream(self, requests: Iterator[Text], context: Any) -> Text:
        values = []
        for request in requests:
            self._react(request, context)
            values.append(request.value)
        self.completed += 1
        return Text(value=",".join(values))

    def sync_bidi_stream(self, requests: Iterator[Text], context: Any) -> Iterator[Text]:
        for request in requests:
            self._react(request, context)
            yield Text(value=request.value)
        self.completed += 1

    def add_to(self, server: grpc.Server) -> None:
        """Register the service as generated code would."""
        methods: dict[str, tuple[Any, Any]] = {
            "Unary": (grpc.unary_unary_rpc_method_handler, self.sync_unary),
            "ServerStream": (grpc.unary_stream_rpc_method_handler, self.sync_server_stream),
            "ServerStreamByWrite": (grpc.unary_stream_rpc_method_handler, self.sync_server_stream_as_list),
            "ClientStream": (grpc.stream_unary_rpc_method_handler, self.sync_client_stream),
            "BidiStream": (grpc.stream_stream_rpc_method_handler, self.sync_bidi_stream),
        }
        handlers = {
            name: wrap(function, self.parse, Text.SerializeToString)
            for name, (wrap, function) in methods.items()
        }
        server.add_registered_method_handlers(PROBE, handlers)


@asynccontextmanager
async def open_sync_env(
    *,
    method_scopes: Any = None,
    public_methods: Sequence[str] = (),
    threads: int = 16,
    **settings: Any,
) -> AsyncIterator[Env]:
    """Start a synchronous server with the probe service; see open_env."""
    probe, verifier = SyncProbe(), TableVerifier()
    verifier.answers |= {"good": principal("use:probe"), "weak": principal("other")}
    lines: list[dict[str, Any]] = []
    rules = {f"{PROBE}/{name}": ["use:probe"] for name in METHODS} | (method_scopes or {})
    rules = {name: rule for name, rule in rules.items() if name not in public_methods}
    with BackgroundLoop() as background, ThreadPoolExecutor(threads) as pool:
        interceptor = OAuth2ServerInterceptor(
            verifier,
            background,
            [],
            logger=line_keeper(lines),
            settings=ServerSettings(**settings),
            policy=PolicyOptions(rules, public_methods=public_methods),
        )
        server = grpc.server(pool, interceptors=[interceptor])
        probe.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        target = f"127.0.0.1:{port}"
        sync_channel = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        async with grpc.aio.insecure_channel(target) as channel:
            try:
                yield Env(interceptor, probe, verifier, Client(channel, sync_channel), port, lines)
            finally:
                sync_channel.close()
                stopped = server.stop(0)
                await asyncio.to_thread(stopped.wait)
                probe.cancel()
