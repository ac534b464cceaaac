"""What a test bed has seen, until it is reset."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from gatehouse_testbed.bed.records import RecordedCall, RecordedSpan
from gatehouse_testbed.bed.service_log import ServiceLog

MAX_CALLS = 10_000
MAX_SPANS = 50_000
UNKNOWN_METHOD = "the services have no such RPC; name it as package.Service/Method or Method"


class Evidence:
    """Calls that the services received, their spans and their log; the newest of them.

    Calls and spans that have begun when it is cleared are not kept when they end: they belong to an earlier
    test.

    Attributes:
        calls: In the order in which they ended. Another list takes its place when it is cleared.
        log: None if there are no services.
        methods: The RPCs of the services, as `package.Service/Method`, and whether each streams responses.
    """

    def __init__(self) -> None:
        self.calls: deque[RecordedCall] = deque(maxlen=MAX_CALLS)
        self.log: ServiceLog | None = None
        self.methods: Mapping[str, bool] = {}
        self._spans: deque[RecordedSpan] = deque(maxlen=MAX_SPANS)
        self._began_ns = 0

    def clear(self) -> None:
        """Forget everything."""
        self.calls = deque(maxlen=MAX_CALLS)
        self._began_ns = time.time_ns()
        self._spans.clear()
        if self.log is not None:
            self.log.clear()

    def calls_of(self, method: str) -> Sequence[RecordedCall]:
        """Return the calls of `package.Service/Method` or `Method`; of all RPCs if it is "".

        Raises:
            ValueError: There is no such RPC.
        """
        if method and not any(_names(method, known) for known in self.methods):
            raise ValueError(f"{method}: {UNKNOWN_METHOD}")
        return [call for call in self.calls if not method or _names(method, call.method)]

    def add_span(self, span: RecordedSpan, began_ns: int) -> None:
        """Keep a span that began at this time, in nanoseconds since the epoch."""
        if began_ns >= self._began_ns:
            self._spans.append(span)

    def spans_of(self, trace_id: str, name: str) -> Sequence[RecordedSpan]:
        """Return the spans of a trace, and of a name or of `Method`; "" means all."""
        return [
            span
            for span in self._spans.copy()
            if trace_id in {"", span.trace_id} and (not name or _names(name, span.name))
        ]


def _names(wanted: str, name: str) -> bool:
    """Return whether `wanted` is `name`, or its part after a slash."""
    return f"/{name}".endswith(f"/{wanted}")
