"""Telemetry of a call: one trace across all services, log lines with its id, and metrics."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import grpc

from tests.support.compose import OURS, Host, fetch_trace, log_lines, query_prometheus, until

Span = dict[str, Any]


def parents(span: Span, spans: Sequence[Span]) -> list[Span]:
    """Return the ancestors of `span`, nearest first."""
    at = {one["spanID"]: one for one in spans}
    found = []
    while span["references"] and (above := at.get(span["references"][0]["spanID"])) is not None:
        found.append(above)
        span = above
    return found


def named(spans: Sequence[Span], service: str, start: str) -> list[Span]:
    return [s for s in spans if s["service"] == service and s["operationName"].startswith(start)]


def is_complete(spans: Sequence[Span]) -> bool:
    at = {span["spanID"] for span in spans}
    # The parent of the root is the caller's, which is not exported.
    missing = [s for s in spans if s["references"] and s["references"][0]["spanID"] not in at]
    return len(missing) == 1 and {s["service"] for s in spans} == {
        "gatehouse-admin",
        "gatehouse-users",
        "keycloak",
    }


# <part admin>
async def traced_call(host: Host) -> tuple[str, list[Span]]:
    """Call GetStats with a new token and a new trace id; return the id and the spans."""
    trace_id = secrets.token_hex(16)
    outcome = await host.call(
        "admin",
        "GetStats",
        token=await host.user_token("alice"),
        metadata=(("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),),
    )
    assert outcome.code is grpc.StatusCode.OK
    return trace_id, await until(lambda: fetch_trace(trace_id), is_complete, 60)


async def test_one_trace_contains_both_services_their_sql_and_keycloak(host: Host) -> None:
    _, spans = await traced_call(host)
    (admin,) = named(spans, "gatehouse-admin", "gatehouse.admin.v1.AdminService/GetStats")
    (client,) = named(spans, "gatehouse-admin", "gatehouse.users.v1.UserService/CountUsers")
    (users,) = named(spans, "gatehouse-users", "gatehouse.users.v1.UserService/CountUsers")
    assert parents(client, spans)[0] is admin
    assert parents(users, spans)[0] is client
    for service, above in (("gatehouse-admin", admin), ("gatehouse-users", users)):
        selects = named(spans, service, "SELECT")
        assert selects
        assert all(above in parents(select, spans) for select in selects)
    introspections = named(spans, "keycloak", "POST /realms/{realm}/protocol/{protocol}/token/introspect")
    assert introspections
    for span in introspections:
        (asked, verified) = parents(span, spans)[:2]
        assert asked["operationName"] == "POST"
        assert verified["operationName"] == "oauth.verify"


# </part admin>


async def test_no_span_contains_the_token(host: Host) -> None:
    token = await host.user_token("alice")
    trace_id = secrets.token_hex(16)
    sent = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)
    assert (await host.call("users", "CountUsers", token=token, metadata=sent)).code is grpc.StatusCode.OK
    spans = await until(
        lambda: fetch_trace(trace_id), lambda s: bool(named(s, "gatehouse-users", "SELECT")), 60
    )
    assert token not in str(spans)


# <part admin>
async def test_log_lines_of_both_services_have_the_trace_id(host: Host) -> None:
    trace_id, _ = await traced_call(host)
    for service, method in (
        ("admin", "gatehouse.admin.v1.AdminService/GetStats"),
        ("users", "gatehouse.users.v1.UserService/CountUsers"),
    ):
        lines = [line for line in log_lines(service) if line.get("trace_id") == trace_id]
        assert [line["method"] for line in lines if line["event"] == "rpc"] == [method]


async def test_background_work_creates_no_trace(host: Host) -> None:
    _, spans = await traced_call(host)
    assert not named(spans, "gatehouse-users", "grpc.health")
    # Checks of the database start no trace, so every SELECT has a parent.
    assert all(parents(span, spans) for span in spans if span["operationName"] == "SELECT")


# </part admin>


async def total(query: str) -> float:
    return sum(float(row["value"][1]) for row in await query_prometheus(query))


async def grows(query: str, before: float) -> None:
    await until(lambda: total(query), lambda now: now > before, 60)


async def test_prometheus_scrapes_every_service_and_keycloak(host: Host) -> None:
    query = "target_info * on (instance) group_left () up == 1"
    rows = await until(lambda: query_prometheus(query), lambda rows: len(rows) == len(OURS), 60)
    assert {row["metric"]["service_name"] for row in rows} == {f"gatehouse-{name}" for name in OURS}
    assert len(await query_prometheus('up{job="keycloak"} == 1')) == 1


async def test_prometheus_evaluates_the_rules(host: Host) -> None:
    await host.code("users", "ListUsers")
    denied = 'reason:gatehouse_authorization_denials:rate5m{reason="token_missing"}'
    await until(lambda: query_prometheus(denied), bool, 60)
    assert await query_prometheus("rpc_method:rpc_server_errors:ratio_rate5m")


async def test_prometheus_counts_denials_by_reason(host: Host) -> None:
    missing = 'gatehouse_authorization_denials_total{reason="token_missing"}'
    scope = 'gatehouse_authorization_denials_total{reason="insufficient_scope"}'
    before = [await total(missing), await total(scope)]
    assert await host.code("users", "ListUsers") is grpc.StatusCode.UNAUTHENTICATED
    assert (
        await host.code("users", "DeleteUser", await host.user_token("bob"))
        is grpc.StatusCode.PERMISSION_DENIED
    )
    await grows(missing, before[0])
    await grows(scope, before[1])


async def test_prometheus_counts_verifications_by_source(host: Host) -> None:
    query = 'gatehouse_token_verifications_total{{source="{}"}}'
    before = {source: await total(query.format(source)) for source in ("introspection", "cache")}
    token = await host.client_token()
    for _ in range(2):
        assert await host.code("users", "CountUsers", token) is grpc.StatusCode.OK
    for source, count in before.items():
        await grows(query.format(source), count)


async def test_prometheus_has_rate_errors_and_duration_of_each_rpc(host: Host) -> None:
    calls = 'rpc_server_call_duration_seconds_count{rpc_method="gatehouse.users.v1.UserService/CountUsers"}'
    before = await total(calls)
    token = await host.client_token()
    assert await host.code("users", "CountUsers", token) is grpc.StatusCode.OK
    assert await host.code("users", "CountUsers") is grpc.StatusCode.UNAUTHENTICATED
    await until(lambda: total(calls), lambda now: now >= before + 2, 60)
    rows = await query_prometheus(f"sum by (rpc_response_status_code) ({calls})")
    assert {row["metric"]["rpc_response_status_code"] for row in rows} >= {"OK", "UNAUTHENTICATED"}
    quantile = await query_prometheus(
        "histogram_quantile(0.99, sum by (le) (rpc_server_call_duration_seconds_bucket))"
    )
    assert 0 < float(quantile[0]["value"][1]) <= 10
