"""The only module that knows the four shapes: from generated servicers to methods, and from calls to gRPC.

Every handler is registered raw, `stream_unary` or `stream_stream`, so that nothing is read before the
chain wants it: a unary handler of gRPC waits for the request first, and hangs when none comes.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import protovalidate

from gatehouse.rpc._intake import Intake
from gatehouse.rpc._metadata import CallMetadata
from gatehouse.rpc.call import Call, Method, Next, Shape, Status, set_current
from gatehouse.rpc.errors import StatusError, trailers_of
from gatehouse.rpc.policy import PolicyError
from gatehouse.rpc.validation import parser


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer and the generated function that registers it.

    Attributes:
        add: `add_XServicer_to_server`.
        servicer: The servicer.
    """

    add: Callable[[Any, Any], None]
    servicer: object


class _Registrar:
    """Stands where a server stands in generated code, and keeps what is registered."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Takes nothing: generated code registers the same handlers by name as well."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in handlers.items():
            self.handlers[f"/{service}/{name}"] = handler


def collect(services: Sequence[Service]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Returns the handlers that `services` register, by path.

    Raises:
        PolicyError: A handler is not async, or a path is registered twice.
    """
    found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for service in services:
        registrar = _Registrar()
        service.add(service.servicer, registrar)
        for path, handler in registrar.handlers.items():
            behavior = _behavior(handler)
            if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
                raise PolicyError(f"{path[1:]}: its handler is not async; make it `async def`")
            if path in found:
                raise PolicyError(f"{path[1:]}: is registered twice")
            found[path] = handler
        if not registrar.handlers:
            raise PolicyError(
                f"{type(service.servicer).__name__}: registers no RPC; its stubs are older than grpcio-tools "
                "1.64, make them anew"
            )
    return found


def shape_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Shape:
    """Returns the shape of a handler."""
    if handler.request_streaming:
        return Shape.BIDI_STREAMING if handler.response_streaming else Shape.CLIENT_STREAMING
    return Shape.SERVER_STREAMING if handler.response_streaming else Shape.UNARY


def _behavior(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    behavior: Any = {
        Shape.UNARY: handler.unary_unary,
        Shape.SERVER_STREAMING: handler.unary_stream,
        Shape.CLIENT_STREAMING: handler.stream_unary,
        Shape.BIDI_STREAMING: handler.stream_stream,
    }[shape_of(handler)]
    return cast("Callable[..., Any]", behavior)


_NO_REQUEST = Status(grpc.StatusCode.UNIMPLEMENTED, "this RPC takes exactly one request", "REQUEST_MISSING")


class _Aborting:
    """What `abort` returns: awaiting it raises."""

    __slots__ = ("_error",)

    def __init__(self, error: StatusError) -> None:
        self._error = error

    def __await__(self) -> NoReturn:
        raise self._error


class ServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """What a servicer sees as its context: gRPC's own, over messages instead of bytes."""

    __slots__ = ("_aborted", "_call", "_code", "_details", "_parse", "_raw", "_serialize", "ended")

    def __init__(self, call: Call, parse: Callable[[bytes], Any], serialize: Callable[[Any], bytes]) -> None:
        self._call = call
        self._raw = call.context
        self._parse = parse
        self._serialize = serialize
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._aborted: StatusError | None = None
        self.ended = False  # whether `finish` has something to say

    async def read(self) -> Any:
        """Reads, parses and validates the next request; EOF at the end."""
        raw = await self._raw.read()
        if raw is grpc.aio.EOF:
            # A request stream that broke off looks like one that was ended: gRPC says EOF, and brings the
            # news of the cancellation just after. A second answer comes behind that news, so that no
            # handler takes half of a stream for the whole.
            return await self._raw.read()
        call = self._call
        call.bytes_received += len(raw)
        return self._parse(raw)

    async def read_one(self) -> Any:
        """Reads the request of an RPC that takes one.

        Raises:
            StatusError: None came.
        """
        raw = await self._raw.read()
        if raw is grpc.aio.EOF:
            await self._raw.read()  # as in `read`
            raise StatusError(_NO_REQUEST)
        self._call.bytes_received = len(raw)
        return self._parse(raw)

    async def requests(self) -> AsyncIterator[Any]:
        """All requests of the stream."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def write(self, message: Any) -> None:
        """Sends one response of the stream."""
        if self._aborted is not None:
            raise self._aborted
        raw = self._serialize(message)
        call = self._call
        call.bytes_sent += len(raw)
        await self._raw.write(raw)

    def abort(  # type: ignore[override] # no coroutine: it takes hold when its `await` is forgotten too
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> Awaitable[NoReturn]:
        """Ends the call; the chain sees the status before the caller does.

        Raises:
            ValueError: The code is OK, which is no way to fail.
        """
        if code is grpc.StatusCode.OK:
            raise ValueError("abort was called with OK")
        self._aborted = StatusError(Status(code, details, trailers=tuple(trailing_metadata)))
        self.ended = True
        return _Aborting(self._aborted)

    def abort_with_status(self, status: Any) -> Awaitable[NoReturn]:  # type: ignore[override] # as `abort`
        """As in gRPC."""
        return self.abort(status.code, status.details, status.trailing_metadata or ())

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """As in gRPC."""
        await self._raw.send_initial_metadata(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """As in gRPC."""
        self._call.trailers = tuple(trailing_metadata)
        self._raw.set_trailing_metadata(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """As in gRPC, without the credentials, which are no handler's business."""
        return tuple(e for e in self._raw.invocation_metadata() or () if e[0] != "authorization")

    def set_code(self, code: grpc.StatusCode) -> None:
        """As in gRPC."""
        self._code = code
        self.ended = True

    def set_details(self, details: str) -> None:
        """As in gRPC."""
        self._details = details

    def code(self) -> grpc.StatusCode:
        """As in gRPC."""
        return self._code or grpc.StatusCode.OK

    def details(self) -> str:
        """As in gRPC."""
        return self._details

    def trailing_metadata(self) -> Any:
        """As in gRPC."""
        return self._call.trailers

    def set_compression(self, compression: grpc.Compression) -> None:
        """As in gRPC."""
        self._raw.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """As in gRPC."""
        self._raw.disable_next_message_compression()

    def peer(self) -> str:
        """As in gRPC."""
        return str(self._raw.peer())

    def peer_identities(self) -> Any:
        """As in gRPC."""
        return self._raw.peer_identities()

    def peer_identity_key(self) -> Any:
        """As in gRPC."""
        return self._raw.peer_identity_key()

    def auth_context(self) -> Any:
        """As in gRPC."""
        return self._raw.auth_context()

    def time_remaining(self) -> float:
        """As in gRPC."""
        return self._raw.time_remaining()  # type: ignore[no-any-return] # gRPC's is cython, without types

    def add_done_callback(self, callback: Any) -> None:
        """As in gRPC."""
        self._raw.add_done_callback(callback)

    def cancelled(self) -> bool:
        """As in gRPC."""
        return bool(self._raw.cancelled())

    def done(self) -> bool:
        """As in gRPC."""
        return bool(self._raw.done())

    def finish(self) -> None:
        """Takes an `abort` that was not awaited, or was caught, and a code that was set without one."""
        if self._aborted is not None:
            raise self._aborted
        if self._code not in {None, grpc.StatusCode.OK}:
            raise StatusError(Status(self.code(), self._details))


def innermost(method: Method, validator: protovalidate.Validator) -> Next:
    """Makes the end of the chain: read, parse, validate, call the handler, serialize."""
    handler = method.handler
    behavior = _behavior(handler)
    parse = parser(handler.request_deserializer, validator)
    serialize: Callable[[Any], bytes] = handler.response_serializer or bytes
    generates = inspect.isasyncgenfunction(behavior)

    streaming = handler.request_streaming

    async def answer_one(call: Call) -> None:
        context = ServicerContext(call, parse, serialize)
        request = context.requests() if streaming else await context.read_one()
        response = await behavior(request, context)
        if context.ended:
            context.finish()
        call.response = raw = serialize(response)
        call.bytes_sent = len(raw)

    async def answer_many(call: Call) -> None:
        context = ServicerContext(call, parse, serialize)
        request = context.requests() if streaming else await context.read_one()
        if generates:
            responses = behavior(request, context)
            try:
                async for response in responses:
                    await context.write(response)
            finally:
                await responses.aclose()
        else:
            await behavior(request, context)
        context.finish()

    return answer_many if handler.response_streaming else answer_one


class Entry:
    """What gRPC finds at a path, made once for each method.

    Args:
        method: The method.
        handle: The chain of the method.
        intake: The way of calls into the server.
    """

    __slots__ = ("_answer", "_handle", "_intake", "_method")

    def __init__(self, method: Method, handle: Next, intake: Intake) -> None:
        self._method = method
        self._handle = handle
        self._intake = intake
        self._answer: type[_Answer] = _StreamAnswer if method.handler.response_streaming else _UnaryAnswer

    def handler(self, metadata: CallMetadata) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of one call."""
        return cast("grpc.RpcMethodHandler[Any, Any]", self._answer(self, metadata))

    async def run(self, metadata: CallMetadata, context: Any) -> Call:
        """Runs the chain over one call."""
        intake = self._intake
        if intake.gate is not None:
            await intake.hold(intake.gate)
        call = Call(self._method, context, metadata, intake.draining)
        set_current(call)
        await self._handle(call)
        status = call.status
        if status is not None:
            await context.abort(status.code, status.message, trailers_of(call, status))
        return call


class _Answer:
    """The handler of one call. gRPC keeps it until the call ends, so it must not hold all of the metadata."""

    __slots__ = ("_entry", "_metadata")

    request_streaming = True
    request_deserializer = response_serializer = None
    unary_unary = unary_stream = None

    def __init__(self, entry: Entry, metadata: CallMetadata) -> None:
        self._entry = entry
        self._metadata = metadata


class _UnaryAnswer(_Answer):
    __slots__ = ()
    response_streaming = False
    stream_stream = None

    async def stream_unary(self, _: object, context: Any) -> bytes | None:
        return (await self._entry.run(self._metadata, context)).response


class _StreamAnswer(_Answer):
    __slots__ = ()
    response_streaming = True
    stream_unary = None

    async def stream_stream(self, _: object, context: Any) -> None:
        await self._entry.run(self._metadata, context)
