"""Reads from hot standbys, within a limit of staleness and never older than what the caller has written.

A row that is read from a standby carries the horizon of its own snapshot: all transactions with lower ids are
complete there. So each answer proves how fresh it is, without another round trip, whichever server behind a
load balancer gives it. The WAL position would not: a function reads it after the snapshot was taken.

Transaction ids mean the same only on one timeline. A former primary that is in recovery has transactions of
its own, so the timeline of each connection is checked. A standby reports a new one after a restartpoint.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self, TypeVar

import sqlalchemy as sa
from opentelemetry.trace import Tracer

from gatehouse.storage.connecting import Connection, Connector, shut_down
from gatehouse.storage.database import POSITION, Database
from gatehouse.storage.errors import DatabaseUnavailable, failed_check
from gatehouse.storage.probe import Probe

HORIZON = sa.case(
    (
        sa.func.pg_is_in_recovery(),
        sa.cast(sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger),
    ),
    else_=sa.literal_column("0"),
).label("horizon")
"""Column of each SELECT that runs on a standby. A server that was promoted proves nothing: 0."""
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint * pg_is_in_recovery()::int"
_SERVER = "SELECT pg_is_in_recovery(), timeline_id FROM pg_control_checkpoint()"
# Longest time to wait for a standby, to connect or to read; then the primary is asked.
STANDBY_SECONDS = 1.0
_MAX_INTERVAL = 1.0
_TOKEN = re.compile(r"0|[0-9a-f]{24}", re.ASCII)
# Errors of one read, which say nothing about the next one.
_OF_ONE_READ = {"DATABASE_BUSY", "DATABASE_CONFLICT", "STATEMENT_TIMEOUT"}
T = TypeVar("T")


class WriteToken(NamedTuple):
    """What a caller has written: transactions below `horizon`. Later tokens are larger, also as text."""

    timeline: int
    horizon: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Return a token from its text, as POSITION writes it."""
        return cls(int(text[:8], 16), int(text[8:] or "0", 16))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the token that a caller sends, "0" if it has written nothing; None if it is invalid."""
        return cls.of(text) if _TOKEN.fullmatch(text) else None


class _Stale(Exception):
    """The answer of a standby does not prove that it is fresh enough."""


class StandbyConnector(Connector):
    """Opens connections to standbys.

    Attributes:
        timeline: That of the primary; 0 accepts any.
    """

    timeline = 0

    async def _connect(self, parameters: dict[str, Any]) -> Connection:
        async with asyncio.timeout(STANDBY_SECONDS):  # whose error is an OSError
            return await super()._connect(parameters)

    async def _prepare(self, connection: Connection) -> None:
        limit = asyncio.get_running_loop().call_later(STANDBY_SECONDS, shut_down, connection)
        try:
            await super()._prepare(connection)
            row = await (await connection.execute(_SERVER)).fetchone()
        finally:
            limit.cancel()
        standby, timeline = row or (False, 0)
        if not standby:
            raise _unusable("the server is not a standby")
        if self.timeline not in {0, timeline}:
            raise _unusable("the server is not on the timeline of the primary, or not yet after a failover")


class StandbyReads:
    """Decides which reads standbys may answer, and makes them.

    Args:
        primary: Connections to the primary.
        connector: Opens connections to standbys.
        max_staleness: How many seconds old an answer of a standby may be.
        pool_size: Largest number of connections to standbys.
        tracer: See Database.
        on_read: Called for each read that a standby may answer with `standby` or `primary`, which did.
        on_change: Called when standbys stop or start being used, with the reason, "" if they are used, and
            with what PostgreSQL reported.
        monotonic: Clock in seconds.

    Attributes:
        reached: Horizon that a standby has reached, or 0: no standby is to be used.
    """

    def __init__(
        self,
        primary: Database,
        connector: StandbyConnector,
        *,
        max_staleness: float,
        pool_size: int = 10,
        tracer: Tracer | None = None,
        on_read: Callable[[str], None] = lambda _: None,
        on_change: Callable[[str, str], None] = lambda _reason, _detail: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connector = connector
        self._pool = Database(
            connector,
            pool_size=pool_size,
            connect_timeout=STANDBY_SECONDS,
            max_use=STANDBY_SECONDS,
            tracer=tracer,
        )
        self._at_primary, self._at_standby = Probe(primary.connector), Probe(connector)
        self._max_staleness = max_staleness
        self._interval = min(_MAX_INTERVAL, max_staleness / 4)
        self._on_read, self._on_change = on_read, on_change
        self._monotonic = monotonic
        self._samples: deque[tuple[float, int]] = deque()
        self.reached = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to compare the standbys with the primary."""
        self._task = asyncio.create_task(self._compare_forever())

    async def aclose(self) -> None:
        """Stop that, and close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for probe in (self._at_primary, self._at_standby):
            await probe.aclose()
        await self._pool.aclose()

    async def answer(
        self,
        token: WriteToken,
        read: Callable[[Database, Callable[[Any], Any]], Awaitable[T | None]],
    ) -> T | None:
        """Return what a standby answers; None if the primary has to be asked.

        Args:
            token: What the caller has written.
            read: Reads from a database. It passes each row to its second argument, which checks the column
                HORIZON, and returns None if there is no row.
        """
        required = self._required(token)
        answer = None if required is None else await self._ask(required, read)
        self._on_read("primary" if answer is None else "standby")
        return answer

    def _required(self, token: WriteToken) -> int | None:
        """Return the horizon that an answer must prove; None if no standby is known to have reached it."""
        oldest = self._monotonic() - self._max_staleness
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()
        if not self._samples or token.timeline > self._connector.timeline:
            return None
        required = max(self._samples[0][1], token.horizon)
        return required if required <= self.reached else None

    async def _ask(
        self, required: int, read: Callable[[Database, Callable[[Any], Any]], Awaitable[T | None]]
    ) -> T | None:
        def check(row: Any) -> Any:
            if row.horizon < required:
                raise _Stale
            self.reached = max(self.reached, row.horizon)
            return row

        try:
            return await read(self._pool, check)
        except _Stale:
            self._pause()
        except DatabaseUnavailable as error:
            if error.reason not in _OF_ONE_READ:
                self._pause()
        return None

    def _pause(self) -> None:
        """Use no standby until the next comparison, and then other connections, maybe to another server."""
        self.reached = 0
        self._pool.renew()

    async def _compare_forever(self) -> None:
        reported = None
        while True:
            try:
                found = await self._compare()
            except Exception as error:  # noqa: BLE001 - no error may end the comparisons
                self._pause()
                failed = error if isinstance(error, DatabaseUnavailable) else failed_check(error)
                found = failed.reason, failed.detail
            if found is not None and found[0] != reported:
                reported = found[0]
                self._on_change(*found)
            await asyncio.sleep(self._interval)

    async def _compare(self) -> tuple[str, str] | None:
        """Take a sample of the primary, then look how far a standby is.

        Returns:
            What to report; None if there are too few samples to tell.
        """
        began = self._monotonic()
        try:
            (text,) = await self._at_primary.run(POSITION, timeout=STANDBY_SECONDS)
        except DatabaseUnavailable as error:
            raise _unusable(error.detail, "PRIMARY_UNUSABLE") from None
        timeline, horizon = WriteToken.of(text)
        if timeline < self._connector.timeline:
            self._at_primary.renew()
            raise _unusable("the server is a former primary, or was restored", "PRIMARY_UNUSABLE")
        if timeline > self._connector.timeline:
            self._samples.clear()
            self._connector.timeline = timeline
            self._pause()
            self._at_standby.renew()
        self._samples.append((began, horizon))
        (self.reached,) = await self._at_standby.run(_HORIZON, timeout=STANDBY_SECONDS)
        if not self.reached:
            self._at_standby.renew()
            raise _unusable("the server is no longer a standby")
        if self._required(WriteToken(0, 0)) is not None:
            return "", ""
        if self._samples and began - self._samples[0][0] < self._max_staleness / 2:
            return None
        return "STANDBY_BEHIND", f"it is more than {self._max_staleness:g} s behind the primary"


def _unusable(detail: str, reason: str = "STANDBY_UNUSABLE") -> DatabaseUnavailable:
    return DatabaseUnavailable(reason, "the standby cannot be used", detail)
