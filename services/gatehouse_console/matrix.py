"""The access matrix: every RPC by every caller, as the running services decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_once, new_trace, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method
from gatehouse_console.callers import Caller, Callers

CALL_SECONDS = 10.0
_CONCURRENT_CALLS = 16
# A request that no message type can parse. Services check the caller before they parse, so the call shows
# the decision and can change nothing.
_UNPARSABLE = b"\xff"
# Standard methods without side effects (AIP-131, AIP-132).
_READS = ("Get", "List")
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


class Verdict(StrEnum):
    """What a service has decided about a caller."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_IDENTITY = "unauthenticated"
    FAILED = "failed"

    @classmethod
    def of(cls, code: grpc.StatusCode) -> Verdict:
        """Return the verdict that a status code shows. All other codes come after the decision."""
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return cls.NO_IDENTITY
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return cls.DENIED
        return cls.FAILED if code in _FAILURES else cls.ALLOWED


@dataclass(frozen=True, slots=True)
class Cell:
    """One call.

    Attributes:
        caller: Who called.
        row: The RPC and its rule.
        sent: The request, in words.
        outcome: How it ended, without responses.
        seconds: How long it took.
        trace_id: Id of its trace, "" if there is none.
        before: The last verdict before this one if that was another one.
    """

    caller: Caller
    row: PolicyRow
    sent: str
    outcome: Outcome
    seconds: float
    trace_id: str
    before: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """What the service has decided."""
        return Verdict.of(self.outcome.code)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One run.

    Attributes:
        callers: The columns, and who is missing.
        cells: The calls by RPC (`package.Service/Method`) and name of the caller.
        verdicts: The last verdict of each cell, also of callers who were in earlier runs only.
        seconds: How long it took.
        ended_at: Seconds since the epoch.
    """

    callers: Callers
    cells: Mapping[tuple[str, str], Cell] = field(repr=False)
    verdicts: Mapping[tuple[str, str], Verdict] = field(repr=False)
    seconds: float
    ended_at: float

    @property
    def changed(self) -> Sequence[Cell]:
        """The cells that differ from the run before."""
        return [cell for cell in self.cells.values() if cell.before is not None]


async def run_matrix(profile: Profile, callers: Callers, previous: Matrix | None) -> Matrix:
    """Call every RPC as every caller.

    Args:
        profile: Where the services are.
        callers: Who calls.
        previous: The run to compare with.
    """
    started = time.monotonic()
    known = previous.verdicts if previous is not None else {}
    limit = asyncio.Semaphore(_CONCURRENT_CALLS)
    async with AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(open_channel(profile, name))
            for name in dict.fromkeys(row.service for row in policy_rows())
        }

        async def call(row: PolicyRow, caller: Caller) -> Cell:
            async with limit:
                before = known.get((row.name, caller.name))
                return await _call(profile, channels[row.service], row, caller, before)

        cells = await asyncio.gather(
            *(call(row, caller) for row in policy_rows() for caller in callers.found)
        )
    by_place = {(cell.row.name, cell.caller.name): cell for cell in cells}
    verdicts = {**known, **{place: cell.verdict for place, cell in by_place.items()}}
    return Matrix(callers, by_place, verdicts, time.monotonic() - started, time.time())


async def _call(
    profile: Profile, channel: grpc.aio.Channel, row: PolicyRow, caller: Caller, before: Verdict | None
) -> Cell:
    method = find_method(SERVICES[row.service].descriptor, row.method)
    request, sent = _request(method)
    trace_id, traceparent = new_trace() if profile.traces_url else ("", "")
    started = time.monotonic()
    outcome = await call_once(
        channel,
        method,
        [request],
        token=caller.token,
        limit=1 if method.server_streaming else 0,
        timeout=CALL_SECONDS,
        metadata=[("traceparent", traceparent)] if traceparent else (),
    )
    # Responses may be large, and the decision is in the status.
    outcome = Outcome(outcome.code, outcome.message, outcome.reason, outcome.challenge, outcome.violations)
    seconds = time.monotonic() - started
    changed = before is not Verdict.of(outcome.code)
    return Cell(caller, row, sent, outcome, seconds, trace_id, before if changed else None)


def _request(method: MethodDescriptor) -> tuple[object, str]:
    """Return a request that changes nothing, and what it is."""
    unary = not (method.client_streaming or method.server_streaming)
    if unary and method.name.startswith(_READS):
        return message_factory.GetMessageClass(method.input_type)(), f"{method.input_type.name} {{}}"
    sent = (
        f"a byte that is not a {method.input_type.name}. Services check the caller before they parse the "
        "request, so the call shows their decision and cannot change anything"
    )
    return _UNPARSABLE, sent
