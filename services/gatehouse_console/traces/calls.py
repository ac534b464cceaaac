"""The calls that each session has made, so that their traces can be found again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gatehouse_console.recent import Recent
from gatehouse_console.sessions import IDLE_SECONDS, Session

MAX_CALLS = 100
_MAX_SESSIONS = 1_000


@dataclass(frozen=True, slots=True)
class TracedCall:
    """A call that has a trace.

    Attributes:
        rpc: `package.Service/Method`.
        code: Name of its status.
        seconds: How long it took.
        ended_at: Seconds since the epoch.
        trace_id: 32 hexadecimal digits.
    """

    rpc: str
    code: str
    seconds: float
    ended_at: float
    trace_id: str


class CallLog:
    """The newest calls of each session."""

    def __init__(self) -> None:
        self._calls: Recent[deque[TracedCall]] = Recent(_MAX_SESSIONS, IDLE_SECONDS)

    def add(self, session: Session, call: TracedCall) -> None:
        """Keep a call, unless it has no trace."""
        if call.trace_id:
            calls = self._calls.get(session.id)
            if calls is None:
                calls = self._calls[session.id] = deque(maxlen=MAX_CALLS)
            calls.appendleft(call)

    def of(self, session: Session) -> Sequence[TracedCall]:
        """Return the calls of a session, the newest first."""
        return tuple(self._calls.get(session.id) or ())
