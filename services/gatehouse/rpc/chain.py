"""The chain, in one place: what every call passes, outermost first. Composed once for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import protovalidate

from gatehouse.rpc._adapter import Entry, innermost
from gatehouse.rpc._intake import Intake
from gatehouse.rpc._metadata import read_metadata
from gatehouse.rpc.call import Call, Interceptor, Method, Next, Shape, Status
from gatehouse.rpc.errors import StatusError, error_info
from gatehouse.rpc.policy import PUBLIC

_UNIMPLEMENTED = Status(
    grpc.StatusCode.UNIMPLEMENTED,
    "there is no such RPC",
    "METHOD_NOT_FOUND",
    (error_info("METHOD_NOT_FOUND"),),
)


class Router(grpc.GenericRpcHandler):
    """Gives gRPC the composed handler of a path; a path that is not registered is UNIMPLEMENTED.

    Args:
        methods: All registered methods.
        interceptors: The chain, outermost first.
        validator: Checks the constraints of requests.
        intake: The way of calls into the server.
        max_metadata_bytes: Largest size of a call's metadata.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        interceptors: Sequence[Interceptor],
        validator: protovalidate.Validator,
        intake: Intake,
        max_metadata_bytes: int,
    ) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._entries: Mapping[str, Entry] = {
            method.path: _compose(method, interceptors, validator, intake) for method in methods
        }
        self._unknown = _unknown(interceptors, intake)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Looks the path up, to the letter."""
        entry = self._entries.get(handler_call_details.method, self._unknown)
        # Whatever is kept lives as long as the call, so gRPC's tuple goes no further.
        metadata = read_metadata(handler_call_details.invocation_metadata, self._max_metadata_bytes)
        return entry.handler(metadata)


def _compose(
    method: Method,
    interceptors: Sequence[Interceptor],
    validator: protovalidate.Validator,
    intake: Intake,
) -> Entry:
    handle = innermost(method, validator)
    for interceptor in reversed(interceptors):
        handle = interceptor.intercept(method, handle)
    return Entry(method, handle, intake)


def _unknown(interceptors: Sequence[Interceptor], intake: Intake) -> Entry:
    """Answers paths that do not exist, all under one name: a caller may not choose metric labels."""

    async def nothing(_: object, __: object) -> None:
        """Never called; it gives the method its shape."""

    async def refuse(_: Call) -> None:
        raise StatusError(_UNIMPLEMENTED)

    method = Method(
        path="/unknown",
        service="unknown",
        shape=Shape.BIDI_STREAMING,
        rule=PUBLIC,
        handler=grpc.stream_stream_rpc_method_handler(nothing),
    )
    handle: Next = refuse
    for interceptor in reversed(interceptors):
        handle = interceptor.intercept(method, handle)
    return Entry(method, handle, intake)
