"""Jaeger's query API (/api/traces), of Jaeger itself and of the trace receiver of the test bed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from gatehouse.client.traces.spans import MAX_SPANS, Span, Trace
from gatehouse.client.upstream import Upstream
from gatehouse.settings import ConfigurationError

_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")
_MAX_MICROSECONDS = 2**53
# `service.name` of the services, see gatehouse.app.serve.
_PREFIX = "gatehouse-"
_MAX_SERVICES = 20
_NOT_JAEGER = "not a Jaeger query API"


def parse_trace_id(trace_id: str) -> str:
    """Return a trace id as 32 lower-case hexadecimal digits.

    Raises:
        ConfigurationError: It is not a trace id.
    """
    if not _TRACE_ID.fullmatch(trace_id):
        raise ConfigurationError(
            f"{trace_id}: not a trace id; use up to 32 hexadecimal digits, as in the log"
        )
    return trace_id.lower().rjust(32, "0")


class Jaeger:
    """A server with Jaeger's query API.

    Args:
        upstream: The server.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    @property
    def url(self) -> str:
        """Where it is."""
        return self._upstream.url

    async def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace that have arrived so far.

        Raises:
            UpstreamError: The server does not respond, or not as Jaeger does.
        """
        body = await self._upstream.get(f"/api/traces/{trace_id}")
        return [span for trace in self._parse(body or b"{}") for span in trace.spans][:MAX_SPANS]

    async def latest(self, limit: int) -> list[Trace]:
        """Return the newest traces that pass a service of Gatehouse, the newest first.

        Args:
            limit: Largest number of traces.

        Raises:
            UpstreamError: See `trace`.
        """
        body = await self._upstream.get("/api/services")
        try:
            names = _Services.model_validate_json(body or b"").data or ()
        except ValidationError:
            raise self._upstream.error(_NOT_JAEGER) from None
        services = [name for name in names if name.startswith(_PREFIX)][:_MAX_SERVICES]
        answers = await asyncio.gather(
            *(
                self._upstream.get("/api/traces", {"service": service, "limit": str(limit)})
                for service in services
            )
        )
        traces = (trace for body in answers for trace in self._parse(body or b"") if trace.spans)
        # A trace that passes several services is in several answers.
        found = {trace.trace_id: trace for trace in traces}
        return sorted(found.values(), key=lambda trace: trace.start, reverse=True)[:limit]

    def _parse(self, body: bytes) -> list[Trace]:
        try:
            return parse_traces(body)
        except ValueError:
            raise self._upstream.error(_NOT_JAEGER) from None


class _Tag(BaseModel):
    key: str
    value: Any = ""


class _Reference(BaseModel):
    kind: str = Field(alias="refType")
    span_id: str = Field(alias="spanID")


class _Span(BaseModel):
    span_id: str = Field(alias="spanID")
    name: str = Field(alias="operationName")
    references: list[_Reference] | None = None
    start: int = Field(alias="startTime", ge=0, le=_MAX_MICROSECONDS)
    duration: int = Field(ge=0, le=_MAX_MICROSECONDS)
    tags: list[_Tag] | None = None
    process: str = Field(alias="processID")


class _Process(BaseModel):
    name: str = Field(alias="serviceName")


class _Trace(BaseModel):
    trace_id: str = Field(alias="traceID", pattern=r"^[0-9a-fA-F]{1,32}$")
    spans: list[_Span]
    processes: dict[str, _Process]


class _Services(BaseModel):
    data: list[str] | None = None


class _Answer(BaseModel):
    data: list[_Trace] | None = None


def parse_traces(body: bytes) -> list[Trace]:
    """Return the traces of a response of Jaeger's query API.

    Raises:
        ValueError: It is not such a response.
    """
    try:
        answer = _Answer.model_validate_json(body)
        return [
            Trace(parse_trace_id(found.trace_id), [_span(raw, found) for raw in found.spans[:MAX_SPANS]])
            for found in answer.data or ()
        ]
    except (ValidationError, KeyError):
        raise ValueError("not a response of Jaeger's query API") from None


def _span(raw: _Span, trace: _Trace) -> Span:
    tags: dict[str, Any] = {tag.key: tag.value for tag in raw.tags or ()}
    parents = [each.span_id for each in raw.references or () if each.kind == "CHILD_OF"]
    return Span(
        span_id=raw.span_id,
        parent_id=parents[0] if parents else "",
        service=trace.processes[raw.process].name,
        name=raw.name,
        kind=str(tags.pop("span.kind", "internal")),
        start=raw.start,
        duration=raw.duration,
        failed=tags.pop("error", False) is True,
        attributes=tags,
    )


def to_jaeger(trace_id: str, spans: Sequence[Span]) -> dict[str, Any]:
    """Return a trace as Jaeger's query API does."""
    services = list(dict.fromkeys(span.service for span in spans))
    return {
        "traceID": trace_id,
        "spans": [
            {
                "traceID": trace_id,
                "spanID": span.span_id,
                "operationName": span.name,
                "references": [{"refType": "CHILD_OF", "traceID": trace_id, "spanID": span.parent_id}]
                if span.parent_id
                else [],
                "startTime": span.start,
                "duration": span.duration,
                "tags": [
                    *({"key": k, "type": _type(v), "value": v} for k, v in span.attributes.items()),
                    {"key": "span.kind", "type": "string", "value": span.kind},
                    *([{"key": "error", "type": "bool", "value": True}] if span.failed else []),
                ],
                "logs": [],
                "processID": f"p{services.index(span.service) + 1}",
            }
            for span in spans
        ],
        "processes": {f"p{n}": {"serviceName": name, "tags": []} for n, name in enumerate(services, 1)},
    }


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {int: "int64", float: "float64"}.get(type(value), "string")
