"""Calls that run in the background, so that a page can show and cancel them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_each, new_trace, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method
from gatehouse.rpc import TlsError
from gatehouse.settings import ConfigurationError
from gatehouse_console.calls.run import Call, Run
from gatehouse_console.problems import Problem

MAX_RUNNING = 4
"""Calls of a session that run at once; the oldest is cancelled for another one."""
MAX_READERS = 4
"""Pages of a session that are updated live. Browsers open only six connections to a host."""
MAX_RUNNING_OF_ALL = 100
_MAX_KEPT = 10
_MAX_KEPT_OF_ALL = 200


class Runs:
    """The calls of all sessions.

    Args:
        profile: Where the services are.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._readers: Counter[str] = Counter()

    def start(self, call: Call, session_id: str, token: str, on_end: Callable[[Run], None]) -> Run:
        """Start a call.

        Args:
            call: What to call.
            session_id: Session that calls.
            token: Its access token.
            on_end: Called when it has ended.

        Raises:
            Problem: Too many calls run.
        """
        if len(self._tasks) >= MAX_RUNNING_OF_ALL:
            raise Problem(503, "Too many calls", "Too many calls run at once. Try again in a minute.")
        running = [run for run in self.of(session_id) if run.outcome is None]
        for oldest in running[: max(0, len(running) + 1 - MAX_RUNNING)]:
            self.cancel(oldest, f"cancelled, because at most {MAX_RUNNING} of your calls run at once")
        trace_id, traceparent = new_trace() if self._profile.traces_url else ("", "")
        run = Run(call, session_id, trace_id)
        self._make_room(session_id)
        self._runs[run.id] = run
        task = asyncio.create_task(self._execute(run, token, traceparent))
        self._tasks[run.id] = task

        def done(_: object) -> None:
            self._tasks.pop(run.id, None)
            run.end(Outcome(grpc.StatusCode.CANCELLED, "cancelled"))
            on_end(run)

        task.add_done_callback(done)
        return run

    def find(self, session_id: str, name: str) -> Run | None:
        """Return a call of a session, None if there is none or it is no longer kept."""
        run = self._runs.get(name)
        return run if run is not None and run.session_id == session_id else None

    def of(self, session_id: str) -> Sequence[Run]:
        """Return the calls of a session, the oldest first."""
        return [run for run in self._runs.values() if run.session_id == session_id]

    def cancel(self, run: Run, why: str = "you have cancelled the call") -> None:
        """Cancel a call if it still runs."""
        task = self._tasks.get(run.id)
        if task is not None:
            run.end(Outcome(grpc.StatusCode.CANCELLED, why))
            task.cancel()

    def end_session(self, session_id: str) -> None:
        """Cancel and forget the calls of a session."""
        for run in self.of(session_id):
            self.cancel(run, "you have signed out")
            del self._runs[run.id]

    async def close(self) -> None:
        """Cancel all calls, and wait for their end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def may_follow(self, run: Run) -> bool:
        """Return whether one more page of the session may be updated live."""
        return self._readers[run.session_id] < MAX_READERS

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """Count a page that is updated live."""
        self._readers[run.session_id] += 1
        try:
            yield
        finally:
            self._readers[run.session_id] -= 1
            self._readers += Counter()  # drops sessions without pages

    async def _execute(self, run: Run, token: str, traceparent: str) -> None:
        row, call = run.call.row, run.call
        metadata = (*call.metadata, *([("traceparent", traceparent)] if traceparent else []))
        try:
            async with open_channel(self._profile, row.service) as channel:
                outcome = await call_each(
                    channel,
                    find_method(SERVICES[row.service].descriptor, row.method),
                    call.requests,
                    run.add,
                    token=token,
                    timeout=call.seconds,
                    metadata=metadata,
                )
        except (ConfigurationError, TlsError) as error:
            outcome = Outcome(grpc.StatusCode.UNAVAILABLE, str(error))
        run.end(outcome)

    def _make_room(self, session_id: str) -> None:
        """Forget the oldest calls that have ended if there are too many."""
        ended = [run for run in self._runs.values() if run.outcome is not None]
        own = [run for run in ended if run.session_id == session_id]
        surplus = [
            *own[: max(0, len(self.of(session_id)) + 1 - _MAX_KEPT)],
            *ended[: max(0, len(self._runs) + 1 - _MAX_KEPT_OF_ALL)],
        ]
        for run in surplus:
            self._runs.pop(run.id, None)


@asynccontextmanager
async def open_runs(profile: Profile) -> AsyncIterator[Runs]:
    """Yield a place for calls, which are cancelled at the end."""
    runs = Runs(profile)
    try:
        yield runs
    finally:
        await runs.close()
