"""An RPC in progress, the method that it calls, and the interface of an interceptor."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from gatehouse.oauth import PresentedToken, Principal
from gatehouse.rpc._metadata import WRITTEN_KEY, CallMetadata
from gatehouse.rpc.policy import AccessRule

Trailers = tuple[tuple[str, str | bytes], ...]


class RpcType(StrEnum):
    """The four types of RPC."""

    UNARY = "unary"
    SERVER_STREAMING = "server_streaming"
    CLIENT_STREAMING = "client_streaming"
    BIDI_STREAMING = "bidi_streaming"

    @classmethod
    def of(cls, *, client_streaming: bool, server_streaming: bool) -> RpcType:
        """Return the type of an RPC whose client, server, both or neither send a stream."""
        if client_streaming:
            return cls.BIDI_STREAMING if server_streaming else cls.CLIENT_STREAMING
        return cls.SERVER_STREAMING if server_streaming else cls.UNARY

    @property
    def streams(self) -> bool:
        """Whether client or server send a stream."""
        return self is not RpcType.UNARY


def is_health(path: str) -> bool:
    """Return whether an RPC belongs to the standard health service."""
    return path.startswith("/grpc.health.v1.Health/")


@dataclass(frozen=True, slots=True)
class Method:
    """A registered RPC.

    Attributes:
        path: `/package.Service/Method`.
        rpc_type: Its type.
        rule: Its access rule.
        handler: The handler as generated code registered it.
        observed: Whether its calls have spans and metrics, are logged at info, and count against the limit on
            concurrent RPCs; health checks do not.
    """

    path: str
    rpc_type: RpcType
    rule: AccessRule
    handler: grpc.RpcMethodHandler[Any, Any]
    observed: bool = True

    @classmethod
    def of(cls, path: str, rule: AccessRule, handler: grpc.RpcMethodHandler[Any, Any]) -> Method:
        """Return the method with this handler."""
        rpc_type = RpcType.of(
            client_streaming=handler.request_streaming, server_streaming=handler.response_streaming
        )
        return cls(path, rpc_type, rule, handler, observed=not is_health(path))

    @property
    def name(self) -> str:
        """`package.Service/Method`, as in logs and errors."""
        return self.path[1:]


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a call that fails.

    Attributes:
        code: Status code.
        message: Constant text.
        reason: Constant in UPPER_SNAKE_CASE, for ErrorInfo, logs and spans.
        details: Messages of google.rpc (AIP-193).
        trailers: Additional trailing metadata.
        cause: For logs, the reason of the error behind this one.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    details: tuple[Message, ...] = ()
    trailers: Trailers = ()
    cause: str = ""


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(slots=True, eq=False)
class Call:
    """An RPC in progress.

    Attributes:
        method: The method that it calls.
        context: gRPC's own context, which reads and writes bytes.
        metadata: The entries of its metadata that the server itself uses.
        draining: Set when the server begins to stop; long streams end then.
        started: `time.perf_counter()` when the call arrived.
        request_id: `x-request-id` of the caller if it is usable, otherwise a random one.
        token: The access token, once authorized.
        principal: Who calls, once authorized.
        status: The status of a call that failed.
        response: The serialized response of an RPC with exactly one.
        trailers: Trailing metadata that the handler set.
        trace_id: Id of the trace in hexadecimal, or "".
        error_id: Id of an unexpected error, or "".
        bytes_received: Size of the requests that were read.
        bytes_sent: Size of the responses.
    """

    method: Method
    context: Any
    metadata: CallMetadata
    draining: asyncio.Event
    started: float = field(default_factory=time.perf_counter)
    request_id: str = field(init=False)
    token: PresentedToken | None = field(default=None, repr=False)
    principal: Principal | None = None
    status: Status | None = None
    response: bytes | None = None
    trailers: Trailers = ()
    trace_id: str = ""
    error_id: str = ""
    bytes_received: int = 0
    bytes_sent: int = 0

    def __post_init__(self) -> None:
        given = self.metadata.request_id
        # Only identifies the call, so it need not be unpredictable.
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"

    def return_write_token(self, token: str) -> None:
        """Put a token for what the call has written into the trailing metadata; the last one counts."""
        others = tuple(entry for entry in self.trailers if entry[0] != WRITTEN_KEY)
        self.trailers = (*others, (WRITTEN_KEY, token))
        self.context.set_trailing_metadata(self.trailers)

    def deadline_seconds(self) -> float | None:
        """Return the seconds until the caller's deadline, or None if it set none."""
        remaining: float | None = self.context.time_remaining()
        return remaining


Next = Callable[[Call], Awaitable[None]]


class Interceptor(Protocol):
    """A layer of the chain, the same for all RPC types."""

    def intercept(self, method: Method, call_next: Next) -> Next:
        """Return the function to run for each call of `method`; called once, when the server starts.

        Args:
            method: The method.
            call_next: Runs the rest of the chain.
        """
        ...


_current: ContextVar[Call] = ContextVar("gatehouse_call")

# Make a call the current one of its task. Never reset: a task handles one call only.
set_current = _current.set


def current_call() -> Call:
    """Return the call that is being handled.

    Raises:
        LookupError: Not called from a handler.
    """
    return _current.get()


def current_principal() -> Principal:
    """Return who calls.

    Raises:
        LookupError: Not called from a handler, or the RPC is public.
    """
    principal = current_call().principal
    if principal is None:
        raise LookupError("a public RPC has no principal")
    return principal


def current_token() -> str:
    """Return the access token of the caller, to be exchanged for another one; do not pass it on or log it.

    Raises:
        LookupError: Not called from a handler, or the RPC is public.
    """
    token = current_call().token
    if token is None:
        raise LookupError("a public RPC has no token")
    return token.value
