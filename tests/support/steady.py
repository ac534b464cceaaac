"""Request streams over gRPC's client for threads, with the interface of the one for asyncio.

When a server ends a call while grpc.aio's client is still sending, that client now and then loses the status
and says INTERNAL, "Internal error from Core". What tests want to know is what the server said.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio


class SteadyCall:
    """A call whose client streams; awaiting it gives the one answer."""

    def __init__(self, channel: grpc.Channel, path: str, requests: Iterable[bytes], **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        stub: Any = channel.stream_stream(path)
        self._call = stub(iter(requests), **options)
        threading.Thread(target=self._consume, daemon=True).start()

    def _consume(self) -> None:
        with suppress(grpc.RpcError):
            for answer in self._call:
                self._tell(self._answers.put_nowait, answer)
        self._tell(self._answers.put_nowait, None)
        self._tell(self._ended.set)

    def _tell(self, callback: Any, *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody asks any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    async def _end(self) -> Any:
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        return self._call

    async def _answer(self) -> bytes:
        call = await self._end()
        answer = None if self._answers.empty() else self._answers.get_nowait()
        if call.code() is not grpc.StatusCode.OK or answer is None:
            raise self._error()
        return answer

    def _error(self) -> grpc.aio.AioRpcError:
        call, nothing = self._call, grpc.aio.Metadata()
        trailers = grpc.aio.Metadata(*(call.trailing_metadata() or ()))
        return grpc.aio.AioRpcError(call.code(), nothing, trailers, call.details())

    async def code(self) -> grpc.StatusCode:
        """As in grpc.aio."""
        code: grpc.StatusCode = (await self._end()).code()
        return code

    async def details(self) -> str:
        """As in grpc.aio."""
        return str((await self._end()).details())

    async def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """As in grpc.aio."""
        return tuple((await self._end()).trailing_metadata() or ())

    def cancel(self) -> bool:
        """As in grpc.aio."""
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """As in grpc.aio."""
        return bool(self._call.cancelled())


class OneAnswer(SteadyCall):
    """A call with one answer."""

    def __init__(self, parse: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parse = parse

    def __await__(self) -> Generator[Any, None, Any]:
        raw = yield from self._answer().__await__()
        return self._parse(raw)


class ManyAnswers(SteadyCall):
    """A call whose server streams too."""

    def __init__(self, parse: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parse = parse

    async def read(self) -> Any:
        """As in grpc.aio."""
        try:
            answer = await self._answers.get()
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        if answer is not None:
            return self._parse(answer)
        self._answers.put_nowait(None)
        if await self.code() is not grpc.StatusCode.OK:
            raise self._error()
        return grpc.aio.EOF

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (answer := await self.read()) is not grpc.aio.EOF:
            yield answer
