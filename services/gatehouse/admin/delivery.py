"""Deliver role changes from the outbox to the identity provider, at least once and the newest last."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import grpc
import grpc.aio
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import FilteringBoundLogger

from gatehouse.admin.metrics import DeliveryMetrics
from gatehouse.admin.outbox import Identity, RoleChange, RoleOutbox
from gatehouse.admin.role_directory import RoleDirectory, RoleUpdateFailed
from gatehouse.runtime import wait_any
from gatehouse.storage import Notifications
from gatehouse.users.v1 import users_pb2, users_pb2_grpc


@dataclass(frozen=True, slots=True)
class DeliverySchedule:
    """Intervals and limits of a worker; times are in seconds.

    Attributes:
        poll: Time between two polls of the outbox; a notification wakes the worker earlier.
        batch: Number of changes to deliver concurrently.
        attempt: Longest time of one attempt; shorter than the lease of the outbox.
        first_retry: Delay before the first retry; it doubles with each further one, less some jitter.
        max_outage_retry: Longest delay while the provider is unavailable.
        max_retry: Longest delay for a change that the provider does not accept.
        backlog: Time between two measurements of the backlog.
        prune: Time between two deletions of old changes.
        stop: Time for running deliveries to end when the worker stops.
    """

    poll: float = 1.0
    batch: int = 10
    attempt: float = 15.0
    first_retry: float = 1.0
    max_outage_retry: float = 30.0
    max_retry: float = 300.0
    backlog: float = 5.0
    prune: float = 3600.0
    stop: float = 5.0


class RoleDelivery:
    """A worker that delivers role changes in the background. Any number of workers may run.

    A change of a user whose identity is unknown is retried until it is known. Users are not matched by email,
    because a caller who may update users can choose it.

    Args:
        outbox: Outbox of the changes.
        users: UserService, called with the access token of AdminService.
        directory: Identity provider.
        notifications: Wakes the worker when a change was added.
        issuer: Issuer of the identities in `directory`.
        logger: Writes a line for each attempt.
        metrics: Counts the attempts.
        tracer: Creates a span for each attempt, in the trace of the call that changed the role.
        schedule: Intervals and limits.
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
        schedule: DeliverySchedule | None = None,
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
        self._schedule = schedule or DeliverySchedule()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._propagator = TraceContextTextMapPropagator()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_backlog = self._next_prune = 0.0

    async def start(self) -> None:
        """Start delivering."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop. A delivery that does not end in time is repeated by another worker."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._schedule.stop)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def deliver_due(self, limit: int) -> tuple[int, bool]:
        """Attempt up to `limit` changes that are due.

        Returns:
            The number of changes attempted, and whether the provider is unavailable.

        Raises:
            Unavailable: The database is unavailable.
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
                # During an outage one change at a time probes the provider.
                attempted, outage = await self.deliver_due(1 if outages else self._schedule.batch)
                await self._maintain()
            except Exception as error:  # noqa: BLE001 - no error may end the worker
                self._logger.warning(
                    "role outbox unavailable", reason=getattr(error, "reason", type(error).__name__)
                )
                attempted, outage = 0, True
            if outage:
                outages += 1
                await wait_any(self._stopping.wait(), timeout=self._backoff(outages, outage=True))
            elif attempted:
                outages = 0
            else:
                await wait_any(self._stopping.wait(), self._notifications.wait(self._schedule.poll))

    def _backoff(self, attempts: int, *, outage: bool) -> float:
        longest = self._schedule.max_outage_retry if outage else self._schedule.max_retry
        delay: float = min(longest, self._schedule.first_retry * 2.0 ** min(attempts - 1, 30))
        return delay * self._rng.uniform(0.5, 1.0)

    async def _maintain(self) -> None:
        now = time.monotonic()
        if now >= self._next_backlog:
            self._metrics.backlog = await self._outbox.backlog()
            self._next_backlog = now + self._schedule.backlog
        if now >= self._next_prune:
            await self._outbox.prune()
            self._next_prune = now + self._schedule.prune

    async def _deliver(self, change: RoleChange) -> bool:
        """Attempt a change and record the result; return whether the provider is unavailable."""
        parent = self._propagator.extract({"traceparent": change.traceparent}, Context())
        with self._tracer.start_as_current_span(
            "role_outbox deliver",
            parent,
            SpanKind.CONSUMER,
            attributes={"gatehouse.attempt": change.attempts},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            logger = self._logger.bind(
                change_id=str(change.change_id),
                role=change.role,
                granted=change.granted,
                attempts=change.attempts,
            )
            try:
                outcome = await self._attempt(change)
            except RoleUpdateFailed as error:
                await self._retry_later(change, error, span, logger)
                return error.outage
            await self._outbox.complete(change)
            self._metrics.completed(outcome)
            logger.info("role change completed", outcome=outcome)
            return False

    async def _retry_later(
        self, change: RoleChange, error: RoleUpdateFailed, span: Span, logger: FilteringBoundLogger
    ) -> None:
        seconds = self._backoff(change.attempts, outage=error.outage)
        span.set_attribute("error.type", error.reason)
        span.set_status(Status(StatusCode.ERROR))
        self._metrics.failed(error.reason)
        detail = {"detail": error.detail} if error.detail else {}
        logger.warning("role change failed", reason=error.reason, retry_seconds=round(seconds, 1), **detail)
        await self._outbox.reschedule(change, seconds, uncertain=error.uncertain)

    async def _attempt(self, change: RoleChange) -> str:
        """Apply a change at the provider and return the outcome.

        Raises:
            RoleUpdateFailed: Retry later.
        """
        try:
            async with asyncio.timeout(self._schedule.attempt):
                identity = change.identity if change.identity.subject else await self._find_identity(change)
                if identity is None:
                    return "user_deleted"
                if identity.issuer != self._issuer:
                    return "other_issuer"
                await self._directory.set_role(identity.subject, change.role, granted=change.granted)
        except TimeoutError:
            raise RoleUpdateFailed("timeout", outage=True, uncertain=True) from None
        except RoleUpdateFailed:
            raise
        except Exception as error:  # noqa: BLE001 - an error of one change must not stop the others
            error_type = f"{type(error).__module__}.{type(error).__qualname__}"
            self._logger.warning("unexpected error", error_type=error_type)
            raise RoleUpdateFailed("internal", uncertain=True) from None
        return "granted" if change.granted else "revoked"

    async def _find_identity(self, change: RoleChange) -> Identity | None:
        """Return the present identity of a user, or None if the user was deleted.

        Raises:
            RoleUpdateFailed: UserService is unavailable, or the user has no identity yet.
        """
        request = users_pb2.GetUserRequest(user_id=str(change.user_id))
        try:
            user = await self._users.GetUser(request, timeout=self._schedule.attempt)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise RoleUpdateFailed(
                "user_service_unavailable", outage=True, detail=error.code().name
            ) from None
        if not user.subject:
            raise RoleUpdateFailed("identity_unknown")
        return Identity(user.issuer, user.subject)
