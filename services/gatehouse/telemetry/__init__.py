"""How a process records spans: OpenTelemetry's API and exporter, with spans that cost little.

The exporter is in `gatehouse.telemetry.otlp`, apart: only those who export pay for its import.
"""

from gatehouse.telemetry.spans import Span, Tracer

__all__ = ["Span", "Tracer"]
