"""Log lines, traces and metrics: made once for a process, handed to all who write them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO

import orjson
import structlog
from opentelemetry import trace
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Tracer
from prometheus_client import CollectorRegistry, start_http_server
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gatehouse import telemetry
from gatehouse.settings import ConfigurationError, LogSettings, TelemetrySettings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_logger(
    settings: LogSettings, stream: TextIO | None = None, lines: Lines | None = None
) -> FilteringBoundLogger:
    """Makes the logger of a process: JSON lines, or coloured ones on a terminal.

    Args:
        settings: Level and format.
        stream: Where lines go; standard output when None.
        lines: Writes the JSON lines, instead of `stream`.
    """
    stream = stream or sys.stdout
    wrapper: type[Any] = structlog.make_filtering_bound_logger(_LEVELS[settings.level])
    as_console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    processors: list[Any]
    if as_console:
        processors = [
            structlog.processors.add_log_level,
            _add_time,
            _add_trace,
            structlog.dev.ConsoleRenderer(colors=stream.isatty()),
        ]
        target: Any = structlog.PrintLogger(stream)
    else:
        processors = [_as_json]
        target = lines or Lines(stream.buffer)
        wrapper = _json_logger(wrapper, _LEVELS[settings.level])
    return structlog.wrap_logger(  # type: ignore[no-any-return] # of the class that is named here
        target,
        processors=processors,
        wrapper_class=wrapper,
        cache_logger_on_first_use=True,
    )


def _as_json(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
    """Does in one go what structlog's processors do in three: there is a line for each call."""
    event["level"] = name
    if "timestamp" not in event:
        event["timestamp"] = datetime.now(UTC)
    return orjson.dumps(
        _add_trace(logger, name, event), default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    )


def _json_logger(base: type[Any], level: int) -> type[Any]:
    """Makes a class of loggers whose usual methods go straight to the line, by no chain of processors."""

    def writer(name: str) -> Callable[..., None]:
        def write(self: Any, event: str, *arguments: object, **fields: object) -> None:
            fields["event"] = event % arguments if arguments else event
            if self._context:
                fields = {**self._context, **fields}
            self._logger.msg(_as_json(None, name, fields))

        return write

    return type("JsonLogger", (base,), {n: writer(n) for n, least in _LEVELS.items() if least >= level})


class Lines:
    """Writes whole lines: each at once, or those of one turn of the event loop together.

    Processes may share a pipe, so several lines are written in one go only where a pipe takes them unbroken.

    Args:
        stream: Where they go.
        together: Whether a line may wait for those that come in the same turn.
    """

    def __init__(self, stream: BinaryIO, *, together: bool = False) -> None:
        self._stream = stream
        self._held: deque[bytes] = deque()
        self._together = together
        self._scheduled = False

    def msg(self, line: bytes) -> None:
        """Takes a line."""
        self._held.append(line)
        if self._together and self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop() if self._together else None
        except RuntimeError:  # no loop, no turn
            loop = None
        if loop is None:
            self.flush()
        else:
            self._scheduled = True
            loop.call_soon(self.flush)

    debug = info = warning = error = critical = exception = log = msg

    def flush(self) -> None:
        """Writes what is held; where it cannot be written it is lost, and nobody's call with it."""
        self._scheduled = False
        part: list[bytes] = []
        size = 0
        while self._held:
            try:
                line = self._held.popleft()
            except IndexError:  # another thread took it
                break
            if part and size + len(line) > select.PIPE_BUF:
                self._write(part)
                part, size = [], 0
            part.append(line)
            size += len(line)
        if part:
            self._write(part)

    def settle(self) -> None:
        """Writes what is held, and from here on each line at once."""
        self._together = False
        self.flush()

    def _write(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # full, broken off, closed
            self._stream.write(b"".join(lines))
            self._stream.flush()


def _add_time(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    at = event.get("timestamp") or datetime.now(UTC)
    event["timestamp"] = at.isoformat().replace("+00:00", "Z") if isinstance(at, datetime) else at
    return event


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if "trace_id" not in event:
        ids = trace.get_current_span().get_span_context()
        if ids.is_valid:
            event["trace_id"] = f"{ids.trace_id:032x}"
    return event


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process writes with; `metrics_port` is where metrics are read, None when nowhere."""

    logger: FilteringBoundLogger
    tracer: Tracer
    meter: Meter
    metrics_port: int | None
    _lines: Lines
    _spans: SpanProcessor | None
    _meters: MeterProvider

    def shutdown(self) -> None:
        """Sends what has not been sent."""
        self._lines.settle()
        if self._spans is not None:
            self._spans.shutdown()
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
    resource = Resource.create({"service.name": service_name, "service.namespace": "gatehouse"})
    spans: SpanProcessor | None = None
    tracer: Tracer = NoOpTracer()
    if settings.otlp_endpoint is not None:
        # Its import costs a tenth of a second, which only those pay who trace.
        from gatehouse.telemetry.otlp import SpanExporter  # noqa: PLC0415 - see above

        exporter = SpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
        spans = BatchSpanProcessor(exporter, schedule_delay_millis=round(settings.export_seconds * 1000))
        tracer = telemetry.Tracer(spans, resource, "gatehouse", sample_ratio=settings.sample_ratio)
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
    lines = Lines(sys.stdout.buffer, together=True)
    logger = make_logger(log, lines=lines)
    return Telemetry(logger, tracer, meters.get_meter("gatehouse"), port, lines, spans, meters)
