"""Metrics of RPC servers, named after the semantic conventions of OpenTelemetry."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

import grpc
from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation

from gatehouse.rpc._batch import Batch
from gatehouse.rpc.call import Call, Method, Next

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RpcMetrics:
    """Duration by RPC and code, calls in flight, denials by reason, and the certificate.

    The calls in flight are kept in a plain counter, which an observable instrument reads: adding to an SDK
    counter takes 16 us.

    Args:
        meter: Makes the instruments; None measures nothing.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or NoOpMeter("gatehouse")
        self._duration = meter.create_histogram(
            "rpc.server.call.duration",
            unit="s",
            description="Duration of RPCs",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._batch = Batch()
        self._in_flight: Counter[str] = Counter()
        meter.create_observable_up_down_counter(
            "gatehouse.rpc.in_flight",
            [self._observe_in_flight],
            unit="{call}",
            description="RPCs in progress",
        )
        self._denials = meter.create_counter(
            "gatehouse.authorization.denials", unit="{call}", description="Denied RPCs by reason"
        )
        self._certificate_expires: dt.datetime | None = None
        meter.create_observable_gauge(
            "gatehouse.tls.certificate.expires_in",
            [self._observe_certificate],
            unit="d",
            description="Days until the certificate of the server expires",
        )

    def denied(self, method: Method, reason: str) -> None:
        """Count a denial."""
        self._denials.add(1, {"rpc.method": method.name, "reason": reason})

    def certificate_loaded(self, expires: dt.datetime) -> None:
        """Record when the certificate that new connections get expires."""
        self._certificate_expires = expires

    def flush(self) -> None:
        """Record the durations of calls that have ended."""
        self._batch.flush()

    def _observe_in_flight(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {"rpc.system.name": "grpc", "rpc.method": name})
            for name, count in self._in_flight.copy().items()
        ]

    def _observe_certificate(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._certificate_expires is None:
            return []
        return [Observation((self._certificate_expires - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1))]

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next
        base = {"rpc.system.name": "grpc", "rpc.method": method.name}
        by_code = {code: {**base, "rpc.response.status_code": code.name} for code in grpc.StatusCode}
        fine = by_code[grpc.StatusCode.OK]
        in_flight, name = self._in_flight, method.name

        async def handle(call: Call) -> None:
            in_flight[name] += 1
            try:
                await call_next(call)
            finally:
                in_flight[name] -= 1
                attributes = fine if call.status is None else by_code[call.status.code]
                seconds = time.perf_counter() - call.started
                self._batch.add(partial(self._duration.record, seconds, attributes))

        return handle
