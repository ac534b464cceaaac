"""Metrics of the role outbox."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation

from gatehouse.admin.outbox import Backlog


class DeliveryMetrics:
    """Count deliveries, and report the backlog.

    Args:
        meter: Creates the instruments; None disables them.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or NoOpMeter("gatehouse")
        self.backlog = Backlog()
        self._deliveries = meter.create_counter(
            "gatehouse.role_outbox.deliveries",
            unit="{change}",
            description="Completed role changes by outcome",
        )
        self._failures = meter.create_counter(
            "gatehouse.role_outbox.failures", unit="{attempt}", description="Failed attempts by reason"
        )
        meter.create_observable_gauge(
            "gatehouse.role_outbox.pending",
            [self._observe_pending],
            unit="{change}",
            description="Role changes that are not delivered yet",
        )
        meter.create_observable_gauge(
            "gatehouse.role_outbox.oldest_age",
            [self._observe_oldest],
            unit="s",
            description="Age of the oldest role change that is not delivered yet",
        )

    def completed(self, outcome: str) -> None:
        """Count a completed change."""
        self._deliveries.add(1, {"outcome": outcome})

    def failed(self, reason: str) -> None:
        """Count a failed attempt."""
        self._failures.add(1, {"reason": reason})

    def _observe_pending(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.backlog.pending)]

    def _observe_oldest(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.backlog.oldest_seconds)]
