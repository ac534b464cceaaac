"""Call handlers. Only this module treats the four RPC types differently.

Every method is registered with gRPC as `stream_unary` or `stream_stream`, so that the chain decides when a
request is read: gRPC itself reads the request of a unary RPC before it calls the handler, and waits for a
request that a denied caller may never send.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import grpc
import protovalidate

from gatehouse.rpc._context import ServicerContext
from gatehouse.rpc._drain import Drain
from gatehouse.rpc._metadata import CallMetadata
from gatehouse.rpc._registration import Handler, handler_function
from gatehouse.rpc.call import Call, Method, Next, set_current
from gatehouse.rpc.errors import trailers_of
from gatehouse.rpc.validation import parser


def innermost(method: Method, validator: protovalidate.Validator) -> Next:
    """Return the end of the chain: read, parse and validate, call the handler, serialize."""
    handler = method.handler
    function = handler_function(handler)
    parse = parser(handler.request_deserializer, validator)
    serialize: Callable[[Any], bytes] = handler.response_serializer or bytes

    async def open_call(call: Call) -> tuple[ServicerContext, Any]:
        context = ServicerContext(call, parse, serialize)
        return context, context.requests() if handler.request_streaming else await context.read_one()

    async def respond_once(call: Call) -> None:
        context, request = await open_call(call)
        response = await function(request, context)
        context.raise_status()
        call.response = serialize(response)
        call.bytes_sent = len(call.response)

    async def respond_from_generator(call: Call) -> None:
        context, request = await open_call(call)
        async with contextlib.aclosing(function(request, context)) as responses:
            async for response in responses:
                await context.write(response)
        context.raise_status()

    async def respond_by_writing(call: Call) -> None:
        context, request = await open_call(call)
        await function(request, context)
        context.raise_status()

    if not handler.response_streaming:
        return respond_once
    return respond_from_generator if inspect.isasyncgenfunction(function) else respond_by_writing


def handler_factory(method: Method, handle: Next, drain: Drain) -> Callable[[CallMetadata], Handler]:
    """Return the function that makes gRPC's handler for one call.

    gRPC keeps that handler until the call ends, so it must not hold all of the metadata.

    Args:
        method: The method.
        handle: The chain of the method.
        drain: Holds calls while the server begins to stop.
    """
    wrap: Callable[[Any], Handler] = (
        grpc.stream_stream_rpc_method_handler
        if method.handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )

    def make(metadata: CallMetadata) -> Handler:
        async def run(_: object, context: Any) -> bytes | None:
            await drain.admit()
            call = Call(method, context, metadata, drain.started)
            set_current(call)
            await handle(call)
            if call.status is not None:
                await context.abort(call.status.code, call.status.message, trailers_of(call, call.status))
            return call.response

        return wrap(run)

    return make
