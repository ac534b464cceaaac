"""The worker that brings role changes from the outbox to the provider: at least once, newest last."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import FilteringBoundLogger

from gatehouse.admin.outbox import Backlog, Change, Identity, RoleOutbox
from gatehouse.admin.role_directory import RoleDirectory, RoleNotApplied
from gatehouse.storage import Notifications
from gatehouse.users.v1 import users_pb2, users_pb2_grpc


@dataclass(frozen=True, slots=True)
class Pace:
    """How eager a worker is; all in seconds but `batch`.

    Attributes:
        poll: Between two looks at the outbox when no notification comes.
        batch: Changes that are brought at once.
        attempt: Longest time for one attempt; shorter than the lease of the outbox.
        first_retry: After the first failure; doubled after each further one, and a little random.
        longest_outage_retry: The most it grows to while the provider is away.
        longest_retry: The most it grows to when the change itself cannot be delivered.
        backlog: Between two counts of what is pending.
        prune: Between two removals of what was delivered long ago.
        stop: How long changes under way may take when the worker is stopped.
    """

    poll: float = 1.0
    batch: int = 10
    attempt: float = 15.0
    first_retry: float = 1.0
    longest_outage_retry: float = 30.0
    longest_retry: float = 300.0
    backlog: float = 5.0
    prune: float = 3600.0
    stop: float = 5.0


class DeliveryMetrics:
    """What is pending, for how long, and how deliveries went.

    Args:
        meter: Makes the instruments; None measures nothing.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or NoOpMeter("gatehouse")
        self.backlog = Backlog(0, 0.0)
        self._deliveries = meter.create_counter(
            "gatehouse.role_outbox.deliveries", unit="{change}", description="Settled role changes by outcome"
        )
        self._failures = meter.create_counter(
            "gatehouse.role_outbox.failures", unit="{attempt}", description="Failed attempts by reason"
        )
        meter.create_observable_gauge(
            "gatehouse.role_outbox.pending",
            [self._pending],
            unit="{change}",
            description="Role changes that the identity provider has not heard of",
        )
        meter.create_observable_gauge(
            "gatehouse.role_outbox.oldest_age",
            [self._oldest],
            unit="s",
            description="Age of the oldest role change that is pending",
        )

    def _pending(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.backlog.pending)]

    def _oldest(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.backlog.oldest_seconds)]

    def settled(self, outcome: str) -> None:
        """Counts a change that is pending no more."""
        self._deliveries.add(1, {"outcome": outcome})

    def failed(self, reason: str) -> None:
        """Counts an attempt that failed."""
        self._failures.add(1, {"reason": reason})


class RoleDelivery:
    """Brings changes to the provider until it is stopped; any number of workers may run at once.

    A change whose user has no identity yet waits for it: only the first call with a token of the
    provider binds a user to an identity. An address is no identity, for whoever may write the
    directory could choose it.

    Args:
        outbox: Where the changes are.
        users: UserService, called with this service's own token.
        directory: The provider.
        notifications: Wakes the worker early.
        issuer: Issuer of the users that `directory` knows.
        logger: Writes one line for each attempt.
        metrics: Counts them.
        tracer: Makes a span for each attempt, in the trace of the call that made the change.
        pace: How eager it is.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        outbox: RoleOutbox,
        users: users_pb2_grpc.UserServiceAsyncStub,
        directory: RoleDirectory,
        notifications: Notifications,
        *,
        issuer: str,
        logger: FilteringBoundLogger,
        metrics: DeliveryMetrics | None = None,
        tracer: Tracer | None = None,
        pace: Pace | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._users = users
        self._directory = directory
        self._notifications = notifications
        self._issuer = issuer
        self._logger = logger
        self._metrics = metrics or DeliveryMetrics()
        self._tracer = tracer or NoOpTracer()
        self._pace = pace or Pace()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._propagator = TraceContextTextMapPropagator()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._count_at = self._prune_at = 0.0

    async def start(self) -> None:
        """Begins to deliver."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Ends the worker; what is under way has a moment to end, and is delivered again if it does not."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._pace.stop)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def deliver_due(self, limit: int) -> tuple[int, bool]:
        """Tries up to `limit` changes that are due; returns how many, and whether the provider is away.

        Raises:
            Unavailable: The database is away.
        """
        changes = await self._outbox.claim(limit)
        results = await asyncio.gather(*map(self._deliver, changes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(changes), any(results)

    async def _run(self) -> None:
        outages = 0
        while not self._stopping.is_set():
            try:
                # While the provider is away, one change at a time finds out whether it is back.
                tried, away = await self.deliver_due(1 if outages else self._pace.batch)
                await self._look_after()
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker must go on
                self._logger.warning("role outbox not readable", reason=type(error).__name__)
                tried, away = 0, True
            if away:
                outages += 1
                await self._sleep(self._backoff(outages, outage=True), early=False)
            elif tried:
                outages = 0
            else:
                await self._sleep(self._pace.poll, early=True)

    async def _sleep(self, seconds: float, *, early: bool) -> None:
        """Waits `seconds`, until the worker is stopped, or, if `early`, until something is put in."""
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._stopping.wait())}
        if early:
            waits.add(asyncio.ensure_future(self._notifications.wait(seconds)))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _backoff(self, attempts: int, *, outage: bool) -> float:
        longest = self._pace.longest_outage_retry if outage else self._pace.longest_retry
        grown = self._pace.first_retry * 2.0 ** min(attempts - 1, 30)
        return min(longest, grown) * self._rng.uniform(0.5, 1.0)

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now >= self._count_at:
            self._metrics.backlog = await self._outbox.backlog()
            self._count_at = now + self._pace.backlog
        if now >= self._prune_at:
            await self._outbox.prune()
            self._prune_at = now + self._pace.prune

    async def _deliver(self, change: Change) -> bool:
        """Tries one change, and notes how it went; returns whether the provider is away."""
        parent = self._propagator.extract({"traceparent": change.traceparent}, Context())
        with self._tracer.start_as_current_span(
            "role_outbox deliver",
            parent,
            SpanKind.CONSUMER,
            attributes={"gatehouse.attempt": change.attempts},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            said = self._logger.bind(
                change_id=str(change.change_id),
                role=change.role,
                granted=change.granted,
                attempts=change.attempts,
            )
            try:
                outcome = await self._attempt(change)
            except RoleNotApplied as error:
                await self._failed(change, error, span, said)
                return error.outage
            await self._outbox.finish(change)
            self._metrics.settled(outcome)
            said.info("role change settled", outcome=outcome)
            return False

    async def _failed(
        self, change: Change, error: RoleNotApplied, span: Span, said: FilteringBoundLogger
    ) -> None:
        seconds = self._backoff(change.attempts, outage=error.outage)
        span.set_attribute("error.type", error.reason)
        span.set_status(Status(StatusCode.ERROR))
        self._metrics.failed(error.reason)
        said.warning("role change not delivered", reason=error.reason, retry_seconds=round(seconds, 1))
        await self._outbox.put_back(change, seconds, uncertain=error.uncertain)

    async def _attempt(self, change: Change) -> str:
        """Brings one change to the provider; returns how it ended.

        Raises:
            RoleNotApplied: It is to be tried again.
        """
        try:
            async with asyncio.timeout(self._pace.attempt):
                identity = change.identity if change.identity.subject else await self._identity(change)
                if identity is None:
                    return "user_gone"
                if identity.issuer != self._issuer:
                    return "other_issuer"
                await self._directory.apply(identity.subject, change.role, granted=change.granted)
        except TimeoutError:
            raise RoleNotApplied("timeout", outage=True, uncertain=True) from None
        except RoleNotApplied:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hold up other changes
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            self._logger.warning("unexpected error", error_type=kind)
            raise RoleNotApplied("internal", uncertain=True) from None
        return "granted" if change.granted else "revoked"

    async def _identity(self, change: Change) -> Identity | None:
        """Asks UserService who a user is by now, None when the user is gone: without having been anybody.

        Raises:
            RoleNotApplied: UserService is away, or has not seen the user yet.
        """
        request = users_pb2.GetUserRequest(user_id=str(change.user_id))
        try:
            user = await self._users.GetUser(request, timeout=self._pace.attempt)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise RoleNotApplied("user_service_unavailable", outage=True) from None
        if not user.subject:
            raise RoleNotApplied("identity_unknown")
        return Identity(user.issuer, user.subject)
