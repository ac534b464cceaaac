"""One RPC while it is being answered, and the method that it calls."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from gatehouse.oauth import Principal
from gatehouse.rpc._metadata import CallMetadata
from gatehouse.rpc.policy import AccessRule


class Shape(StrEnum):
    """The four kinds of RPC."""

    UNARY = "unary"
    SERVER_STREAMING = "server_streaming"
    CLIENT_STREAMING = "client_streaming"
    BIDI_STREAMING = "bidi_streaming"

    @classmethod
    def of_method(cls, method: MethodDescriptor) -> Shape:
        """Return the type of a method."""
        if method.client_streaming:
            return cls.BIDI_STREAMING if method.server_streaming else cls.CLIENT_STREAMING
        return cls.SERVER_STREAMING if method.server_streaming else cls.UNARY

    @property
    def streams(self) -> bool:
        """Whether either side streams."""
        return self is not Shape.UNARY


@dataclass(frozen=True, slots=True)
class Method:
    """A registered RPC.

    Attributes:
        path: `/package.Service/Method`.
        service: `package.Service`.
        shape: Its shape.
        rule: What it demands.
        handler: The handler as the generated code registered it.
        observed: Whether calls make spans, log lines at info and count against the load limit; health
            checks do not.
    """

    path: str
    service: str
    shape: Shape
    rule: AccessRule
    handler: grpc.RpcMethodHandler[Any, Any]
    observed: bool = True

    @property
    def name(self) -> str:
        """`package.Service/Method`, as logs and errors have it."""
        return self.path[1:]


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends when not with OK.

    Attributes:
        code: The code.
        message: A fixed text.
        reason: For ErrorInfo and metrics, a constant in UPPER_SNAKE_CASE.
        details: Messages of google.rpc (AIP-193).
        trailers: Further trailing metadata.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    details: tuple[Message, ...] = ()
    trailers: tuple[tuple[str, str | bytes], ...] = ()


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class Call:
    """One RPC: what came with it, and what is known of it so far."""

    __slots__ = (
        "authorization",
        "bytes_received",
        "bytes_sent",
        "context",
        "draining",
        "error_id",
        "metadata_too_large",
        "method",
        "principal",
        "request_id",
        "response",
        "started",
        "status",
        "trace_id",
        "traceparent",
        "tracestate",
        "trailers",
    )

    def __init__(self, method: Method, context: Any, metadata: CallMetadata, draining: asyncio.Event) -> None:
        self.method = method
        self.context = context
        self.draining = draining
        self.started = time.perf_counter()
        self.principal: Principal | None = None
        self.status: Status | None = None
        self.response: bytes | None = None
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()
        self.trace_id = ""
        self.error_id = ""
        self.bytes_received = 0
        self.bytes_sent = 0
        self.authorization = metadata.authorization
        self.traceparent = metadata.traceparent
        self.tracestate = metadata.tracestate
        self.metadata_too_large = metadata.too_large
        usable = _REQUEST_ID.fullmatch(metadata.request_id)
        # It tells calls apart and guards nothing, so it need not come from the system.
        self.request_id = metadata.request_id if usable else f"{random.getrandbits(64):016x}"

    def deadline_seconds(self) -> float | None:
        """Seconds until the caller's deadline, or None when there is none."""
        remaining: float | None = self.context.time_remaining()
        return remaining


Next = Callable[[Call], Awaitable[None]]


class Interceptor(Protocol):
    """One layer of the chain, the same for all shapes."""

    def intercept(self, method: Method, call_next: Next) -> Next:
        """Returns what is done for each call of `method`; made once, when the server starts."""
        ...


_current: ContextVar[Call] = ContextVar("gatehouse_call")


# Makes a call the current one of its task; a task answers one call only, so it is never reset.
set_current = _current.set


def current_call() -> Call:
    """Returns the call that is being answered.

    Raises:
        LookupError: None is.
    """
    return _current.get()


def current_principal() -> Principal:
    """Returns who calls.

    Raises:
        LookupError: No call is being answered, or its RPC is public.
    """
    principal = _current.get().principal
    if principal is None:
        raise LookupError("a public RPC has no principal")
    return principal
