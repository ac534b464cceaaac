"""Metrics of the services, read from their Prometheus endpoints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gatehouse_testbed.errors import TestbedError

CALLS = "rpc_server_call_duration_seconds_count"
VERIFICATIONS = "gatehouse_token_verifications_total"
DENIALS = "gatehouse_authorization_denials_total"
KEY_FETCHES = "gatehouse_keys_refreshes_total"
_LABELS = {
    CALLS: "rpc_response_status_code",
    VERIFICATIONS: "source",
    DENIALS: "reason",
    KEY_FETCHES: "outcome",
}
MAX_BYTES = 4 * 1024 * 1024

Metrics = Counter[tuple[str, str]]
"""Counts since the start of a process, by metric and the value of its label in _LABELS."""


def parse_metrics(text: str) -> Metrics:
    """Parse the Prometheus text format."""
    metrics: Metrics = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = _LABELS.get(sample.name)
            if label is not None:
                metrics[sample.name, sample.labels[label]] += int(sample.value)
    return metrics


async def fetch_metrics(http: httpx.AsyncClient, urls: Mapping[str, str]) -> dict[str, Metrics]:
    """Fetch the metrics of services.

    Args:
        http: HTTP client.
        urls: Endpoint of each service, by its name.

    Raises:
        TestbedError: An endpoint does not return metrics.
    """

    async def fetch(name: str, url: str) -> Metrics:
        try:
            answer = await http.get(url, timeout=5.0)
            answer.raise_for_status()
            return parse_metrics(answer.text[:MAX_BYTES])
        except (httpx.HTTPError, ValueError) as error:
            raise TestbedError(
                f"{url}: no metrics of {name} ({type(error).__name__}); check `metrics` in the profile"
            ) from None

    found = await asyncio.gather(*(fetch(name, url) for name, url in urls.items()))
    return dict(zip(urls, found, strict=True))
