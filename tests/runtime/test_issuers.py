"""Log lines and metrics of the state of issuers."""

from __future__ import annotations

import json
from typing import Any

from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from gatehouse.runtime.issuers import IssuerTelemetry
from tests.support.eventually import eventually
from tests.support.telemetry import JsonLog, MetricsReader

ISSUER = "https://id.test"


def lines_of(log: JsonLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.as_text().splitlines()]


async def test_a_state_that_alternates_is_logged_at_most_once_in_the_quiet_time(
    metrics: MetricsReader,
) -> None:
    log = JsonLog()
    telemetry = IssuerTelemetry(log.logger, metrics.meter, quiet_seconds=0.3)
    error = IssuerUnavailable("introspection_failed", detail="HTTP 500")
    for _ in range(50):
        telemetry.issuer_asked(ISSUER, "introspection", error)
        telemetry.issuer_asked(ISSUER, "introspection", None)
    telemetry.issuer_asked(ISSUER, "introspection", IssuerUnavailable("introspection_timeout"))

    assert [line["reason"] for line in lines_of(log)] == ["INTROSPECTION_FAILED"]
    await eventually(lambda: len(lines_of(log)) == 2)
    assert lines_of(log)[1]["reason"] == "INTROSPECTION_TIMEOUT"
    telemetry.issuer_asked(ISSUER, "introspection", None)
    await eventually(lambda: len(lines_of(log)) == 3)
    assert (lines_of(log)[2]["event"], lines_of(log)[2]["level"]) == ("issuer available", "info")


async def test_rejected_client_is_an_error_for_each_use(metrics: MetricsReader) -> None:
    log = JsonLog()
    telemetry = IssuerTelemetry(log.logger, metrics.meter)
    telemetry.issuer_asked(ISSUER, "introspection", IssuerUnavailable("introspection_refused"))
    telemetry.issuer_asked(ISSUER, "token of admin", TokenRequestFailed("invalid_client", detail="HTTP 401"))
    telemetry.issuer_asked(ISSUER, "keys", IssuerUnavailable("keys_timeout"))

    assert [(line["use"], line["level"]) for line in lines_of(log)] == [
        ("introspection", "error"),
        ("token of admin", "error"),
        ("keys", "warning"),
    ]
    assert telemetry.problems() == [
        f"issuer {ISSUER}: INTROSPECTION_REFUSED",
        f"issuer {ISSUER}: KEYS_TIMEOUT",
    ]


async def test_verifications_refreshes_and_states_are_measured(metrics: MetricsReader) -> None:
    telemetry = IssuerTelemetry(JsonLog().logger, metrics.meter)
    telemetry.verified("cache")
    telemetry.verified("cache")
    telemetry.verified("introspection")
    telemetry.issuer_asked(ISSUER, "keys", None)
    telemetry.issuer_asked(ISSUER, "introspection", IssuerUnavailable("introspection_timeout"))
    telemetry.issuer_asked("https://other.test", "keys", IssuerUnavailable("keys_timeout"))

    assert metrics.value("gatehouse_token_verifications_total", source="cache") == 2
    assert metrics.value("gatehouse_token_verifications_total", source="introspection") == 1
    assert metrics.value("gatehouse_keys_refreshes_total", outcome="ok") == 1
    assert metrics.value("gatehouse_keys_refreshes_total", outcome="failed") == 1
    assert metrics.samples("gatehouse_issuer_available") == {
        (("issuer", ISSUER), ("use", "keys")): 1,
        (("issuer", ISSUER), ("use", "introspection")): 0,
        (("issuer", "https://other.test"), ("use", "keys")): 0,
    }
