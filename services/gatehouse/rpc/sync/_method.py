"""Join the chain on the event loop and the handler in the thread pool of the server."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import grpc
import protovalidate

from gatehouse.background import BackgroundLoop
from gatehouse.rpc._context import NO_REQUEST, ServicerContext
from gatehouse.rpc._metadata import CallMetadata
from gatehouse.rpc._registration import Handler, handler_function
from gatehouse.rpc.call import Call, Method, Next, set_current
from gatehouse.rpc.errors import StatusError, trailers_of
from gatehouse.rpc.sync._interruptible import Interruptible
from gatehouse.rpc.validation import parser


class _CallContext:
    """The context of gRPC as the chain sees it, with what joins the chain and the thread of the handler.

    Attributes:
        admitted: Done when the chain has admitted the call.
        finish: Gives the chain the error of the handler, or None.
    """

    def __init__(self, raw: grpc.ServicerContext) -> None:
        self.time_remaining = raw.time_remaining
        self.peer = raw.peer
        self.admitted: Future[None] = Future()
        self.finish: Callable[[BaseException | None], object]


async def wait_for_handler(call: Call) -> None:
    """Admit the call and wait for its handler: the end of the chain."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[BaseException | None] = loop.create_future()

    def set_result(error: BaseException | None) -> None:
        if not finished.done():
            finished.set_result(error)

    call.context.finish = lambda error: loop.call_soon_threadsafe(set_result, error)
    call.context.admitted.set_result(None)
    error = await finished
    if error is not None:
        raise error


class _SyncContext(ServicerContext):
    """The context that handlers get: that of gRPC, without the credentials."""

    __slots__ = ()

    def __init__(self, call: Call, raw: grpc.ServicerContext, method: SyncMethod) -> None:
        super().__init__(call, method.parse, method.serialize)
        self._raw = raw

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status."""
        raise self.failed(code, details, trailing_metadata)

    def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with a `grpc.Status`."""
        self.abort(status.code, status.details, status.trailing_metadata or ())


class SyncMethod:
    """Answer the calls of one method in the thread pool of the server.

    As with `gatehouse.rpc.Server`, gRPC gets handlers of raw bytes with a stream of requests even for unary
    requests; otherwise it would wait for the request before the chain can refuse the call.
    """

    def __init__(
        self, method: Method, chain: Next, background: BackgroundLoop, validator: protovalidate.Validator
    ) -> None:
        self._method, self._chain, self._background = method, chain, background
        self._never = asyncio.Event()
        self._function = handler_function(method.handler)
        self.parse = parser(method.handler.request_deserializer, validator)
        self.serialize: Callable[[Any], bytes] = method.handler.response_serializer or bytes

    def handler_for(self, metadata: CallMetadata) -> Handler:
        """Return gRPC's handler for one call."""
        if self._method.handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(partial(self._answer_stream, metadata))
        return grpc.stream_unary_rpc_method_handler(partial(self._answer_one, metadata))

    def _answer_one(
        self, metadata: CallMetadata, raw_requests: Iterator[bytes], raw: grpc.ServicerContext
    ) -> bytes:
        running = self._open(metadata, raw)
        call, error, response = running.call, None, b""
        try:
            context = _SyncContext(call, raw, self)
            if self._method.handler.request_streaming:
                raw_requests = Interruptible(partial(iter, raw_requests), running.chain)
            request = self._request(call, raw_requests)
            result = running.variables.run(self._function, request, context)
            context.raise_status()
            response = self.serialize(result)
            call.bytes_sent = len(response)
        except Exception as caught:  # noqa: BLE001 - the chain makes a status of it
            error = caught
        running.finish(error)
        return response

    def _answer_stream(
        self, metadata: CallMetadata, raw_requests: Iterator[bytes], raw: grpc.ServicerContext
    ) -> Iterator[bytes]:
        running = self._open(metadata, raw)
        call, error = running.call, None
        try:
            context = _SyncContext(call, raw, self)
            request = self._request(call, raw_requests)
            responses = partial(self._function, request, context)
            for response in Interruptible(responses, running.chain, running.variables):
                message = self.serialize(response)
                call.bytes_sent += len(message)
                yield message
            context.raise_status()
        except Exception as caught:  # noqa: BLE001 - the chain makes a status of it
            error = caught
        running.finish(error)

    def _request(self, call: Call, raw_requests: Iterator[bytes]) -> Any:
        """Return the argument of the handler: the request, or an iterator of requests."""
        requests = self._requests(call, raw_requests)
        if self._method.handler.request_streaming:
            return requests
        request = next(requests, None)
        if request is None:
            raise StatusError(NO_REQUEST)
        return request

    def _requests(self, call: Call, raw_requests: Iterator[bytes]) -> Iterator[Any]:
        for raw in raw_requests:
            call.bytes_received += len(raw)
            yield self.parse(raw)

    def _open(self, metadata: CallMetadata, raw: grpc.ServicerContext) -> _Running:
        """Run the chain until it admits the call; abort a call that it refuses."""
        context = _CallContext(raw)
        call = Call(self._method, context, metadata, self._never)
        try:
            chain = self._background.submit(_run(self._chain, call))
        except RuntimeError:
            raw.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

        def cancel() -> None:
            chain.cancel()

        if not raw.add_callback(cancel):
            cancel()
        wait((chain, context.admitted), return_when=FIRST_COMPLETED)
        running = _Running(call, chain, raw)
        if not context.admitted.done():
            running.end()
        return running


async def _run(chain: Next, call: Call) -> None:
    await chain(call)


class _Running:
    """An admitted call.

    Attributes:
        call: The call.
        chain: Done when the chain has ended.
        variables: Context variables of the handler.
    """

    def __init__(self, call: Call, chain: Future[None], raw: grpc.ServicerContext) -> None:
        self.call, self.chain, self._raw = call, chain, raw
        self.variables = contextvars.Context()
        self.variables.run(set_current, call)

    def finish(self, error: BaseException | None) -> None:
        """Give the chain the error of the handler, if any, and end the call as the chain decides."""
        with suppress(RuntimeError):  # the background loop has ended, and with it the chain
            self.call.context.finish(error)
        self.end()

    def end(self) -> None:
        """Wait for the chain, and abort the call if it failed."""
        try:
            self.chain.result()
        except CancelledError:
            self._raw.abort(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception:  # noqa: BLE001 - gRPC would send its text to the caller
            self._raw.abort(grpc.StatusCode.INTERNAL, "internal error")
        status = self.call.status
        if status is not None:
            self._raw.set_trailing_metadata(trailers_of(self.call, status))
            self._raw.abort(status.code, status.message)
