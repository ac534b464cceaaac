"""The context that handlers get: that of gRPC, with messages instead of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from gatehouse.rpc.call import Call, Status
from gatehouse.rpc.errors import StatusError

NO_REQUEST = Status(
    grpc.StatusCode.UNIMPLEMENTED, "no request message; this RPC needs one", "REQUEST_MISSING"
)


class _Aborting:
    """Result of `abort`: awaiting it raises."""

    __slots__ = ("_error",)

    def __init__(self, error: StatusError) -> None:
        self._error = error

    def __await__(self) -> NoReturn:
        raise self._error


class ServicerContext:
    """Implement `grpc.aio.ServicerContext`: parse, serialize and abort here, leave the rest to gRPC.

    Args:
        call: The call.
        parse: Parses and validates a request.
        serialize: Serializes a response.
    """

    __slots__ = ("_aborted", "_call", "_code", "_details", "_parse", "_raw", "_serialize")

    def __init__(self, call: Call, parse: Callable[[bytes], Any], serialize: Callable[[Any], bytes]) -> None:
        self._call = call
        self._raw = call.context
        self._parse = parse
        self._serialize = serialize
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._aborted: StatusError | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what is not defined here from gRPC's own context."""
        return getattr(self._raw, name)

    async def read(self) -> Any:
        """Read, parse and validate the next request; return EOF at the end of the stream."""
        raw = await self._read_raw()
        return raw if raw is grpc.aio.EOF else self._parse(raw)

    async def read_one(self) -> Any:
        """Read the request of an RPC that takes exactly one.

        Raises:
            StatusError: The client sent none.
        """
        request = await self.read()
        if request is grpc.aio.EOF:
            raise StatusError(NO_REQUEST)
        return request

    async def requests(self) -> AsyncIterator[Any]:
        """Yield all requests of the stream."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def _read_raw(self) -> Any:
        raw = await self._raw.read()
        if raw is grpc.aio.EOF:
            # gRPC returns EOF for a cancelled request stream too, and cancels the handler a moment later. A
            # second read waits for that, so that no handler takes half of a stream for the whole.
            return await self._raw.read()
        self._call.bytes_received += len(raw)
        return raw

    async def write(self, message: Any) -> None:
        """Send one response of the stream."""
        if self._aborted is not None:
            raise self._aborted
        raw = self._serialize(message)
        self._call.bytes_sent += len(raw)
        await self._raw.write(raw)

    def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> Awaitable[NoReturn]:
        """End the call with a status. Not a coroutine, so it takes effect even if `await` is forgotten.

        Raises:
            ValueError: The code is OK.
        """
        return _Aborting(self.failed(code, details, trailing_metadata))

    def failed(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> StatusError:
        """Return the error to raise for a status, which is raised later if it is not raised now.

        Raises:
            ValueError: The code is OK.
        """
        if code is grpc.StatusCode.OK:
            raise ValueError("abort: the code must not be OK")
        self._aborted = StatusError(Status(code, details, trailers=tuple(trailing_metadata)))
        return self._aborted

    def abort_with_status(self, status: Any) -> Awaitable[NoReturn]:
        """End the call with a `grpc.Status`; see `abort`."""
        return self.abort(status.code, status.details, status.trailing_metadata or ())

    def invocation_metadata(self) -> Any:
        """Return the metadata of the call without its credentials, which no handler needs."""
        return tuple(e for e in self._raw.invocation_metadata() or () if e[0] != "authorization")

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set the trailing metadata of the response."""
        self._call.trailers = tuple(trailing_metadata)
        self._raw.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """Return the trailing metadata that was set."""
        return self._call.trailers

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code with which the call ends when its handler returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text that goes with the code."""
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return the code that was set, or OK."""
        return self._code

    def details(self) -> str:
        """Return the text that was set."""
        return self._details

    def raise_status(self) -> None:
        """Raise the status that the handler set, or passed to `abort` without raising it."""
        if self._aborted is not None:
            raise self._aborted
        if self._code is not grpc.StatusCode.OK:
            raise StatusError(Status(self._code, self._details))
