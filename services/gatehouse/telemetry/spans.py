"""Spans and the tracer that makes them: the API of OpenTelemetry, and what the SDK's processors read.

The SDK's own span locks, copies and checks at each step; `make bench`, where every call makes one, shows
that. What differs otherwise: an exception that passes a span is recorded by its type alone, since its text
may hold what no trace may. (`trace.use_span` of the API writes the text into the status all the same, unless
told not to.) A span belongs to the thread of its event loop, as a call does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import AnyValue, Attributes

# The limits of the OpenTelemetry specification (common, attribute limits; trace SDK, span limits).
MAX_ATTRIBUTES = 128
MAX_EVENTS = 128
MAX_LINKS = 128

_UNSET = Status(StatusCode.UNSET)
_FLAGS = tuple(TraceFlags(bits) for bits in range(4))  # those that are defined; others do not travel on
# Of a root; a child has its parent's. All bits of an id are random (W3C Trace Context Level 2).
_KEPT = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
_LEFT = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
_LOW_BITS = (1 << 64) - 1
_new_id = random.getrandbits  # zero, which is no id, comes once in 2**64


def _clean(attributes: Attributes) -> dict[str, AnyValue]:
    """Copies the first MAX_ATTRIBUTES; the SDK freezes and drops, where some are no plain texts."""
    if not attributes:
        return {}
    if len(attributes) > MAX_ATTRIBUTES:
        attributes = dict(islice(attributes.items(), MAX_ATTRIBUTES))
    for key, value in attributes.items():
        if type(value) is not str or type(key) is not str or not key:
            return dict(BoundedAttributes(attributes=attributes))
    return dict(attributes)


def _frozen(attributes: Attributes) -> Attributes:
    return BoundedAttributes(MAX_ATTRIBUTES, attributes)


def _link(context: SpanContext, attributes: Attributes) -> Link:
    return Link(context, _frozen(attributes))


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Span(ReadableSpan, trace.Span):
    """A span that is kept; see opentelemetry.trace.Span.

    Args:
        name: Its name.
        context: Its ids.
        parent: The ids of its parent; None for a root.
        kind: Its kind.
        attributes: The first ones.
        links: Links to other spans.
        start_time: Nanoseconds since the epoch; now when None.
        record_exception: Whether an exception that ends its block becomes an event.
        set_status_on_exception: Whether it becomes its status.
        resource: What the process is.
        scope: Who makes the span.
        processor: Gets the span when it has ended.
    """

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link],
        start_time: int | None,
        record_exception: bool,  # noqa: FBT001 - as in the API
        set_status_on_exception: bool,  # noqa: FBT001 - as in the API
        *,
        resource: Resource,
        scope: InstrumentationScope,
        processor: SpanProcessor,
    ) -> None:
        ReadableSpan.__init__(
            self,
            name,
            context,
            parent,
            resource,
            _clean(attributes),
            (),
            [_link(each.context, each.attributes) for each in links[:MAX_LINKS]] if links else (),
            kind,
            None,
            _UNSET,
            time.time_ns() if start_time is None else start_time,
            None,
            scope,
        )
        self._processor = processor
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception

    def get_span_context(self) -> SpanContext:
        """See opentelemetry.trace.Span."""
        assert self._context is not None  # noqa: S101 - always given; the base class has it optional
        return self._context

    def is_recording(self) -> bool:
        """See opentelemetry.trace.Span."""
        return self._end_time is None

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """See opentelemetry.trace.Span; those above MAX_ATTRIBUTES are dropped."""
        if self._end_time is not None:
            return
        held: dict[str, AnyValue] = self._attributes  # type: ignore[assignment] # ours is a dict
        attributes = _clean(attributes)
        if len(held) + len(attributes) <= MAX_ATTRIBUTES:
            held.update(attributes)
            return
        for key, value in attributes.items():
            if key in held or len(held) < MAX_ATTRIBUTES:
                held[key] = value

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """See opentelemetry.trace.Span."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """See opentelemetry.trace.Span; those above MAX_EVENTS are dropped."""
        if self._end_time is None and len(self._events) < MAX_EVENTS:
            self._events = (*self._events, Event(name, _frozen(attributes), timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """See opentelemetry.trace.Span; those above MAX_LINKS are dropped."""
        if self._end_time is None and len(self._links) < MAX_LINKS:
            self._links = (*self._links, _link(context, attributes))

    def update_name(self, name: str) -> None:
        """See opentelemetry.trace.Span."""
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See opentelemetry.trace.Span; OK is final, and UNSET changes nothing."""
        if isinstance(status, StatusCode):
            status = Status(status, description)
        final = self._end_time is not None or self._status.status_code is StatusCode.OK
        if not final and status.status_code is not StatusCode.UNSET:
            self._status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - as in the API
    ) -> None:
        """Records the type of an exception as an event; not its text and not its stack."""
        found = {"exception.type": _type_of(exception), "exception.escaped": str(escaped)}
        self.add_event("exception", found | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """See opentelemetry.trace.Span; a second time does nothing."""
        if self._end_time is None:
            self._end_time = time.time_ns() if end_time is None else end_time
            self._processor.on_end(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """See opentelemetry.trace.Span."""
        if isinstance(error, Exception):
            self.passed(error, record=self._record_exception, set_status=self._set_status_on_exception)
        self.end()

    def passed(self, error: Exception, *, record: bool, set_status: bool) -> None:
        """Takes an exception that ended the block of this span."""
        if record:
            self.record_exception(error)
        if set_status:
            self.set_status(StatusCode.ERROR, _type_of(error))


class Tracer(trace.Tracer):
    """Makes spans; see opentelemetry.trace.Tracer.

    A child is kept when its parent is, a root at `sample_ratio`: ParentBased(TraceIdRatioBased) of the
    OpenTelemetry specification, so processes of one ratio keep the same traces.

    Args:
        processor: Gets the spans that are kept when they have ended.
        resource: What the process is.
        scope: Who makes the spans.
        sample_ratio: Share of traces that are kept, from 0 to 1.
    """

    def __init__(
        self, processor: SpanProcessor, resource: Resource, scope: str, *, sample_ratio: float = 1.0
    ) -> None:
        self._processor = processor
        self._resource = resource
        self._scope = InstrumentationScope(scope)
        self._bound = round(sample_ratio * (_LOW_BITS + 1))

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - as in the API
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002 - as in the API
    ) -> trace.Span:
        """See opentelemetry.trace.Tracer."""
        parent: SpanContext | None = None
        if context is None or context:  # an empty one has no parent, and most calls come with none
            found = trace.get_current_span(context).get_span_context()
            if found is not None and found.is_valid:
                parent = found
        if parent is not None:
            flags = _FLAGS[parent.trace_flags & 3]
            kept = flags & TraceFlags.SAMPLED
            ids = SpanContext(parent.trace_id, _new_id(64), False, flags, parent.trace_state)  # noqa: FBT003 - is_remote
        else:
            trace_id = _new_id(128)
            kept = trace_id & _LOW_BITS < self._bound
            ids = SpanContext(trace_id, _new_id(64), False, _KEPT if kept else _LEFT)  # noqa: FBT003 - is_remote
        if not kept:
            return NonRecordingSpan(ids)
        return Span(
            name,
            ids,
            parent,
            kind,
            attributes,
            links or (),
            start_time,
            record_exception,
            set_status_on_exception,
            resource=self._resource,
            scope=self._scope,
            processor=self._processor,
        )

    @_agnosticcontextmanager  # the API's own, which decorates coroutines too
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - as in the API
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002 - as in the API
        end_on_exit: bool = True,  # noqa: FBT001, FBT002 - as in the API
    ) -> Iterator[trace.Span]:
        """See opentelemetry.trace.Tracer; the status of an exception has its type and not its text."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        # It would write the text of an exception.
        with trace.use_span(span, end_on_exit, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Exception as error:
                if isinstance(span, Span):
                    span.passed(error, record=record_exception, set_status=set_status_on_exception)
                raise
