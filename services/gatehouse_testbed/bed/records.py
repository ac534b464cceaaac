"""What the test bed has seen: calls of services, their spans, and requests to the issuer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class RecordedCall(BaseModel):
    """A call that a service received, in the order in which calls end."""

    method: str
    """`package.Service/Method`."""
    rpc_type: str
    """unary, server_streaming, client_streaming or bidi_streaming."""
    code: str
    """Its status."""
    reason: str
    """`reason` of its ErrorInfo, or ""."""
    caller: str
    """User name or client id; "" if the call was not authenticated."""
    metadata_keys: list[str]
    """Keys of its metadata."""
    request_id: str
    trace_id: str
    """Its trace, in hexadecimal."""
    started_at: float
    """Seconds since the epoch, on the clock of the test bed."""
    duration_ms: float


class RecordedSpan(BaseModel):
    """A span of the services, in the order in which spans end."""

    name: str
    kind: str
    """internal, server, client, producer or consumer."""
    status: str
    """unset, ok or error."""
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str
    """The span that contains it, or ""."""
    duration_ms: float


class IssuerRequest(BaseModel):
    """A request that the issuer received."""

    endpoint: str
    """One of `gatehouse_testbed.bed.endpoints`."""
    method: str
    path: str
    status: int | None
    """HTTP status of the response; None if there was none."""
    received_at: float
    """Seconds since the epoch, on the clock of the test bed."""
