"""What the test bed has seen: calls of services, their spans, and requests to the issuer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


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
    metadata: dict[str, list[str]] = Field(repr=False)
    """Values of its metadata by key; those of keys that end in -bin in base64. Empty if it was too large."""
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
    error: str
    """`error` and `error_description` of the response (RFC 6749 section 5.2), or ""."""
    user_agent: str
    """Header User-Agent, which tells your requests from those of the services."""
    received_at: float
    """Seconds since the epoch, on the clock of the test bed."""
