"""A call in progress, or how it ended."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from gatehouse.app.policy import PolicyRow
from gatehouse.client.calls import Entries, Outcome

MAX_RESPONSES = 100
MAX_KEPT_CHARS = 200_000


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its number, how long after the start it came, and its JSON."""

    number: int
    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """What is called.

    Attributes:
        row: The RPC.
        requests: The requests.
        metadata: Metadata to send.
        seconds: The deadline.
        form: The form that it was read from.
    """

    row: PolicyRow
    requests: Sequence[Any]
    metadata: Entries
    seconds: float
    form: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Run:
    """A call in progress, or how it ended.

    Attributes:
        call: What is called.
        session_id: Session that started it.
        trace_id: Id of its trace, "" if there is none.
        id: Its random name.
        responses: The newest responses.
        count: Number of all responses.
        outcome: How it ended, None while it runs.
        seconds: How long it took.
        ended_at: Seconds since the epoch.
    """

    call: Call
    session_id: str = field(repr=False)
    trace_id: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    responses: deque[Response] = field(default_factory=lambda: deque(maxlen=MAX_RESPONSES), repr=False)
    count: int = 0
    outcome: Outcome | None = None
    seconds: float = 0.0
    ended_at: float = 0.0
    _started: float = field(default_factory=time.monotonic, repr=False)
    _kept_chars: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def add(self, response: Any) -> None:
        """Keep a response, and drop the oldest ones if there are too many."""
        text = json_format.MessageToJson(
            response, indent=2, preserving_proto_field_name=True, ensure_ascii=False
        )
        if len(text) > MAX_KEPT_CHARS:
            text = f"{text[:MAX_KEPT_CHARS]}\n(the rest is not shown)"
        self.count += 1
        if len(self.responses) == MAX_RESPONSES:
            self._kept_chars -= len(self.responses.popleft().text)
        self.responses.append(Response(self.count, time.monotonic() - self._started, text))
        self._kept_chars += len(text)
        while self._kept_chars > MAX_KEPT_CHARS and len(self.responses) > 1:
            self._kept_chars -= len(self.responses.popleft().text)
        self._notify()

    def end(self, outcome: Outcome) -> None:
        """Note how it has ended."""
        if self.outcome is None:
            self.seconds, self.ended_at = time.monotonic() - self._started, time.time()
            self.outcome = outcome
            self._notify()

    async def wait(self, seconds: float, *, until_end: bool = False) -> None:
        """Wait until there is another response, or until the end, at most some seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self.outcome is None:
                    await self._changed.wait()
                    if not until_end:
                        return
        except TimeoutError:
            pass

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
