"""Log lines, traces and metrics: made once for a process, handed to all who write them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TextIO

import orjson
import structlog
from opentelemetry import trace
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer, Tracer
from prometheus_client import CollectorRegistry, start_http_server
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gatehouse.settings import ConfigurationError, LogSettings, TelemetrySettings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_logger(settings: LogSettings, stream: TextIO | None = None) -> FilteringBoundLogger:
    """Makes the logger of a process: JSON lines, or coloured ones on a terminal.

    Args:
        settings: Level and format.
        stream: Where lines go; standard output when None.
    """
    stream = stream or sys.stdout
    as_console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    processors: list[Any]
    if as_console:
        processors = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            structlog.dev.ConsoleRenderer(colors=stream.isatty()),
        ]
        factory: Any = structlog.PrintLoggerFactory(stream)
    else:
        processors = [_as_json]
        factory = structlog.BytesLoggerFactory(stream.buffer)
    return structlog.wrap_logger(  # type: ignore[no-any-return] # of the class that is named here
        factory(),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        cache_logger_on_first_use=True,
    )


def _as_json(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
    """Does in one go what structlog's processors do in three: there is a line for each call."""
    event["level"] = name
    event["timestamp"] = datetime.now(UTC)
    return orjson.dumps(_add_trace(logger, name, event), default=repr, option=orjson.OPT_UTC_Z)


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if "trace_id" not in event:
        ids = trace.get_current_span().get_span_context()
        if ids.is_valid:
            event["trace_id"] = f"{ids.trace_id:032x}"
    return event


class _Resource(Resource):
    """Remembers its hash, for which the exporter asks at every span, and which is that of its JSON."""

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> _Resource:
        made = Resource.create(attributes)
        return cls(made.attributes, made.schema_url)

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process writes with; `metrics_port` is where metrics are read, None when nowhere."""

    logger: FilteringBoundLogger
    tracer: Tracer
    meter: Meter
    metrics_port: int | None
    _tracers: TracerProvider | None
    _meters: MeterProvider

    def shutdown(self) -> None:
        """Sends what has not been sent."""
        if self._tracers is not None:
            self._tracers.shutdown()
        self._meters.shutdown()


def make_telemetry(settings: TelemetrySettings, log: LogSettings, service_name: str) -> Telemetry:
    """Makes the telemetry of a process.

    Args:
        settings: Where traces and metrics go.
        log: Level and format of log lines.
        service_name: `service.name` of the resource.

    Raises:
        ConfigurationError: The port of metrics is taken.
    """
    resource = _Resource.of({"service.name": service_name, "service.namespace": "gatehouse"})
    tracers: TracerProvider | None = None
    tracer: Tracer = NoOpTracer()
    if settings.otlp_endpoint is not None:
        # Its import costs a tenth of a second, which only those pay who trace.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        tracers = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
        tracers.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=round(settings.export_seconds * 1000))
        )
        tracer = tracers.get_tracer("gatehouse")
    readers: list[Any] = []
    port: int | None = None
    if settings.metrics_port is not None:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415 - likewise

        registry = CollectorRegistry()
        try:
            web, _ = start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=registry)
        except OSError as error:
            raise ConfigurationError(
                f"GATEHOUSE_TELEMETRY__METRICS_PORT: cannot listen on {settings.metrics_host}:"
                f"{settings.metrics_port} ({error.strerror}); name another port"
            ) from None
        port = web.server_port
        readers.append(PrometheusMetricReader(registry=registry))
    meters = MeterProvider(
        metric_readers=readers,
        resource=resource,
        shutdown_on_exit=False,
        exemplar_filter=AlwaysOffExemplarFilter(),  # the Prometheus reader has no use for them
    )
    return Telemetry(make_logger(log), tracer, meters.get_meter("gatehouse"), port, tracers, meters)
