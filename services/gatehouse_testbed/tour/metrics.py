"""What the services counted, read from their Prometheus endpoints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gatehouse_testbed.errors import DemoError

MAX_BYTES = 4 * 1024 * 1024
_CALLS = "rpc_server_call_duration_seconds_count"
_LABELS = {
    "gatehouse_token_verifications_total": "source",
    "gatehouse_authorization_denials_total": "reason",
    "gatehouse_keys_refreshes_total": "outcome",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the start of a process: calls by code, verifications by source, denials by reason."""

    calls: Counter[str] = field(default_factory=Counter)
    verifications: Counter[str] = field(default_factory=Counter)
    denials: Counter[str] = field(default_factory=Counter)
    key_fetches: Counter[str] = field(default_factory=Counter)

    def since(self, before: Figures) -> Figures:
        """Returns what was counted after `before`."""
        return Figures(
            self.calls - before.calls,
            self.verifications - before.verifications,
            self.denials - before.denials,
            self.key_fetches - before.key_fetches,
        )


def read_figures(text: str) -> Figures:
    """Reads figures in Prometheus' text format."""
    found = Figures()
    counters = dict(zip(_LABELS, (found.verifications, found.denials, found.key_fetches), strict=True))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _CALLS:
                found.calls[sample.labels["rpc_response_status_code"]] += int(sample.value)
            elif sample.name in counters:
                counters[sample.name][sample.labels[_LABELS[sample.name]]] += int(sample.value)
    return found


async def fetch_figures(http: httpx.AsyncClient, addresses: Mapping[str, str]) -> dict[str, Figures]:
    """Fetches the figures of services.

    Args:
        http: Client to ask with.
        addresses: By service.

    Raises:
        DemoError: An endpoint gives no figures.
    """

    async def one(name: str, url: str) -> Figures:
        try:
            answer = await http.get(url, timeout=5.0)
            answer.raise_for_status()
            return read_figures(answer.text[:MAX_BYTES])
        except (httpx.HTTPError, ValueError) as error:
            raise DemoError(
                f"{url}: gives no figures of {name} ({type(error).__name__}); mend `metrics` of the profile"
            ) from None

    found = await asyncio.gather(*(one(name, url) for name, url in addresses.items()))
    return dict(zip(addresses, found, strict=True))
