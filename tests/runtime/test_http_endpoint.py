"""The HTTP endpoint of a process, as Prometheus and the probes of Kubernetes use it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from gatehouse.runtime.http_endpoint import HttpHealth, start_http_endpoint
from gatehouse.settings import ConfigurationError, TelemetrySettings


def serve(health: HttpHealth, host: str = "127.0.0.1") -> str:
    registry = CollectorRegistry()
    Gauge("answer", "An answer", registry=registry).set(42)
    settings = TelemetrySettings(metrics_host=host, metrics_port=0)
    return f"http://{host}:{start_http_endpoint(settings, registry, health)}"


async def get(url: str) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.get(url)
    return response.status_code, response.text


async def test_metrics_and_health_are_served_on_one_port(capfd: pytest.CaptureFixture[str]) -> None:
    health = HttpHealth()
    url = serve(health)
    for path in ("/livez", "/readyz"):
        assert await get(url + path) == (503, "STARTING\n")

    problems: Sequence[str] = ["database: STARTING", "issuers: STARTING"]
    health.report(lambda: problems)
    assert await get(f"{url}/readyz") == (503, "database: STARTING\nissuers: STARTING\n")
    assert await get(f"{url}/livez") == (200, "ok\n")

    problems = []
    assert await get(f"{url}/readyz") == (200, "ok\n")
    assert "answer 42.0" in (await get(f"{url}/metrics"))[1]
    assert capfd.readouterr() == ("", "")


async def test_process_is_not_live_while_its_event_loop_does_not_respond() -> None:
    health = HttpHealth(loop_seconds=0.05)
    health.report(list)
    url, found = serve(health), []

    def probe() -> None:
        found.append(httpx.get(f"{url}/livez", trust_env=False, timeout=60))

    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()  # blocks the event loop
    assert (found[0].status_code, found[0].text) == (503, "the event loop does not respond\n")
    assert await get(f"{url}/livez") == (200, "ok\n")


def test_process_whose_event_loop_is_closed_is_not_live() -> None:
    health = HttpHealth()

    async def report() -> None:
        health.report(list)

    asyncio.run(report())
    assert asyncio.run(get(f"{serve(health)}/livez")) == (503, "STOPPED\n")


def test_connection_without_a_request_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    settings = TelemetrySettings(metrics_port=0)
    port = start_http_endpoint(settings, CollectorRegistry(), HttpHealth(), request_seconds=0.05)
    for sent in (b"", b"GET /livez HT"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(sent)
            assert connection.recv(1024) == b""
    assert capfd.readouterr() == ("", "")


async def test_endpoint_listens_on_a_name() -> None:
    assert (await get(f"{serve(HttpHealth(), 'localhost')}/metrics"))[0] == 200


@pytest.mark.parametrize(("host", "setting"), [("127.0.0.1", "PORT"), ("host.invalid", "HOST")])
def test_address_that_cannot_be_used_is_an_error_that_names_the_setting(host: str, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = TelemetrySettings(metrics_host=host, metrics_port=taken.getsockname()[1])
        with pytest.raises(
            ConfigurationError, match=f"^GATEHOUSE_TELEMETRY__METRICS_{setting}: cannot listen on {host}:"
        ):
            start_http_endpoint(settings, CollectorRegistry(), HttpHealth())
