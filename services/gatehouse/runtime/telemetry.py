"""Logs, traces and metrics of a process: structlog and the OpenTelemetry SDK, set up from the settings."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation
from opentelemetry.trace import NoOpTracer, Status, Tracer
from structlog.typing import FilteringBoundLogger

from gatehouse.grpc_options import NO_PROXY
from gatehouse.runtime.http_endpoint import HttpHealth, start_http_endpoint
from gatehouse.runtime.log_queue import CLOSE_SECONDS, LogQueue
from gatehouse.runtime.logs import make_logger, open_log
from gatehouse.runtime.otel_variables import checked_variables
from gatehouse.runtime.wait import run_in_thread
from gatehouse.settings import LogSettings, TelemetrySettings

# The SDK reads variables when it is imported. No other module imports it.
with checked_variables():
    from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Logger, tracer and meter of a process.

    Attributes:
        logger: Writes log lines.
        tracer: Makes spans.
        meter: Makes instruments.
        metrics_port: Port of the HTTP endpoint, for metrics and probes; None if it is disabled.
        health: What the probes report.
        flush_spans: Exports the remaining spans and ends the export; blocks while the collector hangs.
        close: Ends the metrics and writes the queued log lines; blocks for at most two seconds.
    """

    logger: FilteringBoundLogger
    tracer: Tracer
    meter: Meter
    metrics_port: int | None
    health: HttpHealth
    flush_spans: Callable[[], None]
    close: Callable[[], None]

    async def aclose(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Export the remaining spans, then write the queued log lines, without blocking the event loop.

        Args:
            seconds: Longest time for the export; a collector that hangs gets no more.
            hurry: Ends the wait early when it is set.
        """
        if not await run_in_thread(self.flush_spans, seconds, hurry):
            _logger.warning("spans were not exported; the collector did not respond")
        await run_in_thread(self.close, CLOSE_SECONDS, hurry)


class ExceptionTextFilter(SpanExporter):
    """Remove exception messages and stack traces from spans, as they may hold secrets.

    Spans of this project record none. This covers code that uses the defaults of
    `Tracer.start_as_current_span`, which records both.

    Args:
        exporter: Gets the spans.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        return self._exporter.export([_without_exception_text(span) for span in spans])

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See SpanExporter."""
        return self._exporter.force_flush(timeout_millis)


_EXCEPTION_TEXT = ("exception.message", "exception.stacktrace")


def _without_exception_text(span: ReadableSpan) -> ReadableSpan:
    if not span.events and not span.status.description:
        return span
    events = [
        Event(
            event.name,
            {key: value for key, value in (event.attributes or {}).items() if key not in _EXCEPTION_TEXT},
            event.timestamp,
        )
        for event in span.events
    ]
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),  # the SDK puts the message of an exception there, too
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def discard_telemetry() -> Telemetry:
    """Return telemetry that goes nowhere, for code that needs a Telemetry and serves nothing."""
    logger = make_logger(LogSettings(), io.StringIO())
    return Telemetry(
        logger, NoOpTracer(), NoOpMeter("gatehouse"), None, HttpHealth(), lambda: None, lambda: None
    )


def make_telemetry(settings: TelemetrySettings, log: LogSettings, service_name: str) -> Telemetry:
    """Set up the telemetry of a process that writes its log to standard output.

    Args:
        settings: Where traces and metrics go.
        log: Level and format of log lines.
        service_name: `service.name` of the resource.

    Raises:
        ConfigurationError: The metrics port is taken, or a variable OTEL_* is invalid.
    """
    with checked_variables():
        resource = Resource.create({"service.name": service_name, "service.namespace": "gatehouse"})
    with ExitStack() as stack:
        logger, lines = stack.enter_context(open_log(log))
        health = HttpHealth()
        readers, port = _metric_readers(settings, health)
        meters = MeterProvider(
            metric_readers=readers,
            resource=resource,
            shutdown_on_exit=False,
            exemplar_filter=AlwaysOffExemplarFilter(),  # the Prometheus reader has no use for them
        )
        stack.callback(meters.shutdown)
        meter = meters.get_meter("gatehouse")
        _observe_dropped_lines(meter, lines)
        tracer: Tracer = NoOpTracer()
        flush_spans: Callable[[], None] = lambda: None  # noqa: E731 - as short as it gets
        if settings.otlp_endpoint is not None:
            with checked_variables():
                traces = _tracer_provider(settings, settings.otlp_endpoint, resource)
            tracer, flush_spans = traces.get_tracer("gatehouse"), traces.shutdown
        close = stack.pop_all().close
    return Telemetry(logger, tracer, meter, port, health, flush_spans, close)


def make_exporter(settings: TelemetrySettings, endpoint: str, timeout: float | None = None) -> SpanExporter:
    """Make the exporter of spans.

    Args:
        settings: How to connect.
        endpoint: OTLP/gRPC endpoint.
        timeout: Seconds for an export; that of the OpenTelemetry SDK if None.
    """
    # Imported here because it takes a tenth of a second.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter(
        endpoint=endpoint,
        insecure=settings.otlp_insecure,
        timeout=timeout,
        channel_options=(NO_PROXY,),  # type: ignore[arg-type] # annotated as pairs of strings
    )


def _tracer_provider(settings: TelemetrySettings, endpoint: str, resource: Resource) -> TracerProvider:
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        resource=resource,
        shutdown_on_exit=False,
    )
    exporter = make_exporter(settings, endpoint)
    provider.add_span_processor(
        BatchSpanProcessor(
            ExceptionTextFilter(exporter), schedule_delay_millis=settings.export_seconds * 1000
        )
    )
    return provider


def _metric_readers(settings: TelemetrySettings, health: HttpHealth) -> tuple[list[MetricReader], int | None]:
    if settings.metrics_port is None:
        return [], None
    # Imported here because only a process that serves metrics needs it.
    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    registry = CollectorRegistry()
    port = start_http_endpoint(settings, registry, health)
    return [PrometheusMetricReader(registry=registry)], port


def _observe_dropped_lines(meter: Meter, lines: LogQueue) -> None:
    def observe(_: CallbackOptions) -> list[Observation]:
        return [Observation(lines.dropped)]

    meter.create_observable_counter(
        "gatehouse.log.dropped", [observe], unit="{line}", description="Log lines that were dropped"
    )
