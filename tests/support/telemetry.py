"""Spans, metrics and log lines in memory, made by the same components as in production."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, generate_latest

from gatehouse.rpc import RpcMetrics
from gatehouse.runtime.logs import make_logger
from gatehouse.settings import LogSettings


class Spans:
    """A tracer that keeps its finished spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = provider.get_tracer("test")

    def finished(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def clear(self) -> None:
        """Remove the spans that have ended."""
        self._exporter.clear()

    def as_text(self) -> str:
        """Return everything that would be exported."""
        return "\n".join(span.to_json() for span in self.finished())


@dataclass
class MetricsReader:
    """Metrics with a real Prometheus reader."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        reader = PrometheusMetricReader(registry=self.registry)
        self.meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
        self.rpc = RpcMetrics(self.meter)

    def as_text(self) -> str:
        """Return what a scrape would read."""
        return generate_latest(self.registry).decode()

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the samples of a metric by label, without the labels of the scope."""
        return {
            tuple(
                sorted((k, v) for k, v in sample.labels.items() if not k.startswith("otel_scope"))
            ): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == name
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one sample, or 0 if there is none."""
        return self.samples(name).get(tuple(sorted(labels.items())), 0.0)


class JsonLog:
    """The logger of the application, writing JSON lines to memory."""

    def __init__(self, level: str = "info") -> None:
        self._stream = io.StringIO()
        settings = LogSettings.model_validate({"format": "json", "level": level})
        self.logger = make_logger(settings, self._stream)

    def as_text(self) -> str:
        """Return everything that was written."""
        return self._stream.getvalue()

    def lines(self, event: str = "rpc") -> list[dict[str, Any]]:
        """Return the lines of one event."""
        found = [json.loads(line) for line in self.as_text().splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def spans() -> Spans:
    """A tracer of the SDK."""
    return Spans()


@pytest.fixture
def metrics() -> MetricsReader:
    """A meter of the real SDK."""
    return MetricsReader()
