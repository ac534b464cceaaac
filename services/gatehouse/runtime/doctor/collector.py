"""Check of the OTLP collector: it accepts an export without spans."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from gatehouse.runtime.doctor.result import CHECK_SECONDS, Problem
from gatehouse.runtime.doctor.servers import explain_failure
from gatehouse.runtime.otel_variables import checked_variables
from gatehouse.runtime.telemetry import make_exporter
from gatehouse.settings import TelemetrySettings, mask_settings

_LOGGER = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
_FAILURE = re.compile(r"StatusCode\.(?P<code>\w+), error details: (?P<text>.*)", re.DOTALL)


async def check_collector(settings: TelemetrySettings) -> str:
    """Return where spans are exported to.

    Raises:
        Problem: The collector does not accept them.
        ConfigurationError: A variable OTEL_* is invalid.
    """
    if settings.otlp_endpoint is None:
        return "no export (GATEHOUSE_TELEMETRY__OTLP_ENDPOINT is unset)"
    target = str(mask_settings(settings)["otlp_endpoint"])
    with checked_variables():
        exporter = make_exporter(settings, settings.otlp_endpoint, timeout=CHECK_SECONDS - 1)
    with _messages() as log:
        result = await asyncio.to_thread(exporter.export, ())
        exporter.shutdown()
    if result.name == "SUCCESS":
        return f"{target}: accepts spans"
    found = _FAILURE.search(log.latest)
    if found is None:
        raise Problem(f"{target}: export failed")
    raise explain_failure(found["code"], found["text"], target)


@contextmanager
def _messages() -> Iterator[_Messages]:
    """Read the log of the exporter, which says nowhere else why it failed."""
    log, filters = _Messages(), _LOGGER.filters
    _LOGGER.filters = []  # it leaves out repeated lines
    _LOGGER.addHandler(log)
    try:
        yield log
    finally:
        _LOGGER.removeHandler(log)
        _LOGGER.filters = filters


class _Messages(logging.Handler):
    """Keeps the latest message."""

    latest = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.latest = record.getMessage()
