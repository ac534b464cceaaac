"""Telemetry of a process: what reaches standard output and the collector."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, Tracer

from gatehouse.runtime.otel_variables import checked_variables
from gatehouse.runtime.telemetry import ExceptionTextFilter, make_telemetry
from gatehouse.runtime.wait import run_in_thread
from gatehouse.settings import ConfigurationError, LogSettings, TelemetrySettings
from gatehouse_testbed.tracing.receiver import TraceStore, receive_spans
from tests.support.cli import start
from tests.support.command import Command
from tests.support.environment import PROXIES, SetEnvironment

CANARY = "canary-5f1d"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ExceptionTextFilter(exporter)))
    yield provider.get_tracer("test")
    provider.shutdown()


def test_text_of_an_exception_is_not_exported(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=CANARY), tracer.start_as_current_span("work"):
        raise ValueError(CANARY)
    (span,) = exporter.get_finished_spans()
    assert CANARY not in span.to_json()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    (event,) = span.events
    assert dict(event.attributes or {}) == {"exception.type": "ValueError", "exception.escaped": "False"}


def test_everything_else_of_a_span_is_exported(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    link = Link(SpanContext(8, 9, is_remote=True), {"h": "i"})
    with tracer.start_as_current_span("parent") as parent:
        span = tracer.start_span("work", kind=SpanKind.CLIENT, links=[link], start_time=100)
        span.set_attributes({"a": "b", "c": 1})
        span.add_event("event", {"f": "g"}, 150)
        span.set_status(StatusCode.ERROR)
        span.end(200)
    seen = exporter.get_finished_spans()[0]
    assert seen.context == span.get_span_context()
    assert seen.parent == parent.get_span_context()
    assert (seen.name, seen.kind, seen.start_time, seen.end_time) == ("work", SpanKind.CLIENT, 100, 200)
    assert dict(seen.attributes or {}) == {"a": "b", "c": 1}
    assert [(e.name, dict(e.attributes or {}), e.timestamp) for e in seen.events] == [
        ("event", {"f": "g"}, 150)
    ]
    assert [found.context.span_id for found in seen.links] == [9]
    assert seen.status.status_code is StatusCode.ERROR
    assert seen.resource.attributes["telemetry.sdk.name"] == "opentelemetry"
    assert seen.instrumentation_scope is not None
    assert seen.instrumentation_scope.name == "test"


PROGRAM = """
import asyncio, logging, os, sys, threading, warnings
from gatehouse.runtime.telemetry import make_telemetry
from gatehouse.settings import LogSettings, TelemetrySettings
telemetry = make_telemetry(
    TelemetrySettings(
        otlp_endpoint=os.environ.get("ENDPOINT", "http://127.0.0.1:1"), otlp_insecure=True, metrics_port=0
    ),
    LogSettings(format="json"),
    "test",
)
"""
NOISE = """
telemetry.logger.info("own")
telemetry.tracer.start_span("work").end()
logging.getLogger("library").error("theirs")
warnings.warn("old", UserWarning)
def fail():
    raise ValueError("canary-5f1d")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Unraisable:
    def __del__(self):
        fail()
Unraisable()
asyncio.run(telemetry.aclose(30))
"""


def run(program: str, **variables: str) -> Command[bytes]:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "GRPC_VERBOSITY": "NONE"} | variables
    command = [sys.executable, "-c", program]
    return Command(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_every_line_on_standard_output_is_a_json_object() -> None:
    """Also those of the exporter, which finds no collector, of warnings, and of uncaught exceptions."""
    with run(PROGRAM + NOISE) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    lines = [json.loads(line) for line in output.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    events = [line["event"] for line in lines]
    assert events[:2] == ["own", "theirs"]
    uncaught = [line for line in lines if line["event"] == "uncaught exception"]
    assert [line["error_type"] for line in uncaught] == ["builtins.ValueError"] * 2
    assert CANARY not in output.decode()
    assert any("UserWarning: old" in event for event in events)
    assert any(event.startswith("Failed to export traces") for event in events)


SCRAPE = """
import urllib.request
logging.getLogger("library").error("theirs")
page = urllib.request.urlopen(f"http://127.0.0.1:{telemetry.metrics_port}/metrics").read().decode()
print(*[line for line in page.splitlines() if line.startswith("gatehouse_log")], file=sys.stderr)
asyncio.run(telemetry.aclose(30))
"""


def test_dropped_lines_are_a_metric() -> None:
    with run(PROGRAM + SCRAPE) as process:
        _, errors = process.communicate(timeout=60)
    assert re.fullmatch(r"gatehouse_log_dropped_total\{.*\} 0\.0\n", errors.decode())


HANG = """
for _ in range(20_000):
    telemetry.logger.info("own", text="x" * 100)
print("logged", file=sys.stderr, flush=True)
asyncio.run(telemetry.aclose(30))
"""


def test_reader_of_standard_output_that_hangs_stops_neither_work_nor_exit() -> None:
    with run(PROGRAM + HANG) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"logged\n"
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


SPAN = """
telemetry.tracer.start_span("work").end()
asyncio.run(telemetry.aclose(30))
"""


def test_exporter_does_not_use_the_proxy_of_the_environment() -> None:
    exports: list[bytes] = []
    with (
        receive_spans(TraceStore(), exports.append) as endpoint,
        run(PROGRAM + SPAN, ENDPOINT=endpoint, **PROXIES) as process,
    ):
        process.communicate(timeout=60)
    assert [b"work" in export for export in exports] == [True]


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
        {"OTEL_BSP_EXPORT_TIMEOUT": "many"},
        {"OTEL_RESOURCE_ATTRIBUTES": "a=b,canary"},
        {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "canary"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "authorization canary"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_invalid_variable_of_opentelemetry_is_a_clear_error(
    set_environment: SetEnvironment, variables: dict[str, str]
) -> None:
    set_environment(**variables)
    telemetry = TelemetrySettings(otlp_endpoint="http://127.0.0.1:1", otlp_insecure=True)
    with pytest.raises(ConfigurationError) as caught:
        make_telemetry(telemetry, LogSettings(format="json"), "test")
    assert str(caught.value) == f"{next(iter(variables))}: invalid; correct it"


def test_invalid_variable_whose_name_opentelemetry_does_not_say_is_one_of_those_that_are_set(
    set_environment: SetEnvironment,
) -> None:
    set_environment(OTEL_EXPORTER_OTLP_TIMEOUT="canary", OTEL_SERVICE_NAME="other")
    telemetry = TelemetrySettings(otlp_endpoint="http://127.0.0.1:1", otlp_insecure=True)
    with pytest.raises(ConfigurationError) as caught:
        make_telemetry(telemetry, LogSettings(format="json"), "test")
    assert str(caught.value) == "OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_SERVICE_NAME: one is invalid; correct it"


def test_warning_of_another_thread_is_not_about_a_variable() -> None:
    with checked_variables():
        log = logging.getLogger("opentelemetry.exporter").warning
        thread = threading.Thread(target=log, args=("OTEL_X: the collector is unavailable",))
        thread.start()
        thread.join()


@pytest.mark.parametrize("command", [("serve", "users"), ("doctor",)], ids=str)
def test_variable_that_is_read_at_import_is_a_clear_error(command: tuple[str, ...]) -> None:
    variables = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "canary", "OTEL_RESOURCE_ATTRIBUTES": "canary"}
    with start(*command, **variables) as process:
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (2, "")
    assert errors == "gatehouse: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: invalid; correct it\n"


async def test_collector_that_hangs_does_not_block_the_event_loop() -> None:
    hanging, hurry = threading.Event(), asyncio.Event()
    assert not await run_in_thread(hanging.wait, 0.01)
    waiting = asyncio.create_task(run_in_thread(hanging.wait, 600, hurry))
    await asyncio.sleep(0)
    hurry.set()
    assert not await waiting
    hanging.set()
    assert await run_in_thread(hanging.wait, 60)
