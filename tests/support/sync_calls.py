"""Request streams over the synchronous gRPC client, with the interface of the asyncio client.

If a server ends a call while the asyncio client is still sending, that client sometimes reports INTERNAL,
"Internal error from Core", instead of the status of the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio


class SyncCall:
    """A call whose client sends a stream. A thread reads the responses."""

    def __init__(
        self,
        parse: Callable[[bytes], Any],
        channel: grpc.Channel,
        path: str,
        requests: Iterable[bytes],
        **options: Any,
    ) -> None:
        self._parse = parse
        self._loop = asyncio.get_running_loop()
        self._responses: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        stub: Any = channel.stream_stream(path)
        self._call = stub(iter(requests), **options)
        threading.Thread(target=self._read_responses, daemon=True).start()

    def _read_responses(self) -> None:
        with suppress(grpc.RpcError):
            for response in self._call:
                self._in_loop(self._responses.put_nowait, response)
        self._in_loop(self._responses.put_nowait, None)
        self._in_loop(self._ended.set)

    def _in_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *arguments)

    async def _end(self) -> Any:
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        return self._call

    def _error(self) -> grpc.aio.AioRpcError:
        trailers = grpc.aio.Metadata(*(self._call.trailing_metadata() or ()))
        return grpc.aio.AioRpcError(self._call.code(), grpc.aio.Metadata(), trailers, self._call.details())

    async def code(self) -> grpc.StatusCode:
        """Return the status code when the call has ended."""
        code: grpc.StatusCode = (await self._end()).code()
        return code

    async def details(self) -> str:
        """Return the status message when the call has ended."""
        return str((await self._end()).details())

    async def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the trailing metadata when the call has ended."""
        return tuple((await self._end()).trailing_metadata() or ())

    def cancel(self) -> bool:
        """Cancel the call."""
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Return whether the call was cancelled by the client."""
        return bool(self._call.cancelled())


class SyncStreamUnaryCall(SyncCall):
    """A call with one response; await it to get the response."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        await self._end()
        response = None if self._responses.empty() else self._responses.get_nowait()
        if self._call.code() is not grpc.StatusCode.OK or response is None:
            raise self._error()
        return self._parse(response)


class SyncStreamStreamCall(SyncCall):
    """A call whose server sends a stream too."""

    async def read(self) -> Any:
        """Return the next response, or EOF."""
        try:
            response = await self._responses.get()
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        if response is not None:
            return self._parse(response)
        self._responses.put_nowait(None)
        if await self.code() is not grpc.StatusCode.OK:
            raise self._error()
        return grpc.aio.EOF

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response
