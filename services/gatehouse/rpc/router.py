"""Find the method of a call. Each method has its own chain, composed once when the server starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
import protovalidate

from gatehouse.rpc._dispatch import handler_factory, innermost
from gatehouse.rpc._drain import Drain
from gatehouse.rpc._metadata import CallMetadata, read_metadata
from gatehouse.rpc._registration import Handler
from gatehouse.rpc.call import Call, Interceptor, Method, Next, RpcType, Status
from gatehouse.rpc.errors import StatusError, error_info
from gatehouse.rpc.policy import PUBLIC

_UNKNOWN = Status(
    grpc.StatusCode.UNIMPLEMENTED, "unknown RPC", "METHOD_NOT_FOUND", (error_info("METHOD_NOT_FOUND"),)
)


class Router(grpc.GenericRpcHandler):
    """Return the handler of a path to gRPC; an unregistered path is UNIMPLEMENTED.

    Args:
        methods: All registered methods.
        interceptors: The chain, outermost first.
        drain: Holds calls while the server begins to stop.
        max_metadata_bytes: Largest size of a call's metadata.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        interceptors: Sequence[Interceptor],
        drain: Drain,
        max_metadata_bytes: int,
    ) -> None:
        def compose(method: Method, handle: Next) -> Callable[[CallMetadata], Handler]:
            for interceptor in reversed(interceptors):
                handle = interceptor.intercept(method, handle)
            return handler_factory(method, handle, drain)

        self._max_metadata_bytes = max_metadata_bytes
        validator = protovalidate.Validator()
        self._handlers = {method.path: compose(method, innermost(method, validator)) for method in methods}
        # One method for all unknown paths, so that callers cannot choose metric labels. It is stream_stream,
        # the only kind of handler that can refuse a call of any type.
        refuse: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
        self._unknown = compose(Method("/unknown", RpcType.BIDI_STREAMING, PUBLIC, refuse), _refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Look up the path; it must match exactly."""
        make = self._handlers.get(handler_call_details.method, self._unknown)
        # The handler lives as long as the call, so it must not hold the metadata itself.
        return make(read_metadata(handler_call_details.invocation_metadata, self._max_metadata_bytes))


async def _refuse(_: Call) -> None:
    raise StatusError(_UNKNOWN)
