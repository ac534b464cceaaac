"""Traces and logs of the running system: one trace across services and SQL, and no secrets."""

from __future__ import annotations

import secrets
import uuid
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

# <part admin>
from gatehouse.admin.metrics import DeliveryMetrics
from gatehouse.admin.v1 import admin_pb2, admin_pb2_grpc
from gatehouse.client.traces.spans import Span

# </part admin>
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.support.eventually import eventually
from tests.support.promql import documented, family
from tests.support.system import CLIENT_SECRETS, DATABASE_PASSWORDS, NAMES, System


def traced() -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a new trace id, and the metadata that makes a call part of that trace."""
    trace_id = secrets.token_hex(16)
    return trace_id, (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)


# <part admin>
async def test_trace_of_a_call_spans_both_services_and_their_sql(system: System) -> None:
    trace_id, metadata = traced()
    bearer = ("authorization", f"Bearer {system.user_token('alice', 'admin')}")
    async with system.channel("admin") as channel:
        admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        await admin.GetStats(admin_pb2.GetStatsRequest(), metadata=(*metadata, bearer))

    def complete() -> list[Span]:
        found = list(system.spans.get(trace_id))
        services = {span.service for span in found if span.kind == "server"}
        return found if services == {"gatehouse-admin", "gatehouse-users"} else []

    spans: list[Span] = await eventually(complete)
    by_id = {span.span_id: span for span in spans}

    def way(span: Span) -> list[tuple[str, str]]:
        above = by_id.get(span.parent_id)
        return [*(way(above) if above is not None else []), (span.service, span.name)]

    ways = {tuple(way(span)) for span in spans}
    stats = ("gatehouse-admin", "gatehouse.admin.v1.AdminService/GetStats")
    asks = ("gatehouse-admin", "gatehouse.users.v1.UserService/CountUsers")
    counts = ("gatehouse-users", "gatehouse.users.v1.UserService/CountUsers")
    assert {
        (stats, asks, counts, ("gatehouse-users", "SELECT")),
        (stats, ("gatehouse-admin", "SELECT")),
        (stats, ("gatehouse-admin", "oauth.verify")),
    } <= ways
    queries = [span.attributes["db.query.text"] for span in spans if span.name == "SELECT"]
    assert any("FROM users.users" in text for text in queries)
    logged = [
        line for name in NAMES for line in system.programs[name].lines() if line.get("trace_id") == trace_id
    ]
    assert {line["method"] for line in logged} == {stats[1], counts[1]}


# </part admin>


async def test_health_checks_make_no_spans(system: System) -> None:
    assert not any(b"grpc.health.v1" in raw for raw in system.exports)


async def test_logs_spans_metrics_and_errors_contain_no_secret_or_request_value(
    system: System,
) -> None:
    trace_id, metadata = traced()
    word = f"canary{uuid.uuid4().hex}"
    alice = system.user_token("alice", "read:users write:users delete:users admin")
    worker = system.client_token("gatehouse-worker", "read:users write:users")
    bob = system.user_token("bob", "read:users")
    told: list[str] = []
    async with AsyncExitStack() as stack:
        users: Any = users_pb2_grpc.UserServiceStub(await stack.enter_async_context(system.channel("users")))
        user = pb.User(email=f"{word}@example.test", display_name=word)
        calls = [
            (users.CreateUser, pb.CreateUserRequest(user=user), alice),
            (users.CreateUser, pb.CreateUserRequest(user=user), worker),
            (users.CreateUser, pb.CreateUserRequest(user=pb.User(email=word, display_name=word)), alice),
            (users.CreateUser, pb.CreateUserRequest(user=user), bob),
            (users.ListUsers, pb.ListUsersRequest(filter=f'email = "{word}@example.test"'), alice),
            (users.ListUsers, pb.ListUsersRequest(filter=word), alice),
            (users.ListUsers, pb.ListUsersRequest(page_token=word, order_by=word), alice),
            (users.GetUser, pb.GetUserRequest(user_id=word), alice),
            (users.DeleteUser, pb.DeleteUserRequest(user_id=str(uuid.uuid4()), etag=word), alice),
            (users.GetCurrentUser, pb.GetCurrentUserRequest(), alice),
            (users.GetUser, pb.GetUserRequest(user_id=word), f"{word}.{word}.{word}"),
            (users.GetUser, pb.GetUserRequest(user_id=word), f"{alice}{word}"),
        ]
        served = len(calls) + 1
        # <part admin>
        admin: Any = admin_pb2_grpc.AdminServiceStub(await stack.enter_async_context(system.channel("admin")))
        calls += [
            (admin.ListAuditEvents, admin_pb2.ListAuditEventsRequest(resource=word), alice),
            (admin.ListRoleBindings, admin_pb2.ListRoleBindingsRequest(role=word), alice),
            (admin.GetStats, admin_pb2.GetStatsRequest(), alice),
        ]
        served = len(calls) + 2  # GetStats calls UserService
        # </part admin>
        for method, request, token in calls:
            call = method(request, metadata=(*metadata, ("authorization", f"Bearer {token}")))
            if await call.code() is not grpc.StatusCode.OK:
                told += [await call.details(), repr(await call.trailing_metadata())]
        rows = [pb.ImportUsersRequest(row_number=n, email=word, display_name=word) for n in (1, 2)]
        bearer = ("authorization", f"Bearer {alice}")
        told.append(str(await users.ImportUsers(rows, metadata=(*metadata, bearer))))
    assert len(told) > 10

    def sent() -> bool:
        return sum(span.kind == "server" for span in system.spans.get(trace_id)) >= served

    await eventually(sent)
    written = {
        **{f"log {program.log.name}": program.written for program in system.spawned},
        **{f"metrics of {name}": system.metrics(name) for name in NAMES},
        "spans": b"".join(system.exports).decode(errors="replace"),
        "errors": "\n".join(told),
    }
    forbidden = [word, *CLIENT_SECRETS.values(), *DATABASE_PASSWORDS.values()]
    # A token, or a part of it: each is enough to be somebody, or to say who somebody is.
    forbidden += [part for token in (alice, worker, bob) for part in token.split(".")[1:]]
    found = [(place, text[:12]) for place, all_of in written.items() for text in forbidden if text in all_of]
    assert found == []
    assert "rpc_server_call_duration" in written["metrics of users"]
    assert 'reason="token_malformed"' in written["metrics of users"]


async def test_metrics_count_calls_by_code_and_verifications_by_source(system: System) -> None:
    token = system.user_token("bob", "read:users")
    async with system.channel("users") as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        for _ in range(2):
            await users.CountUsers(pb.CountUsersRequest(), metadata=(("authorization", f"Bearer {token}"),))
    samples = system.metrics("users").splitlines()
    for name, label in (
        ("rpc_server_call_duration_seconds_count", 'rpc_response_status_code="OK"'),
        ("gatehouse_token_verifications_total", 'source="cache"'),
        ("gatehouse_token_verifications_total", 'source="introspection"'),
        ("gatehouse_keys_refreshes_total", 'outcome="ok"'),
        ("gatehouse_database_connections", 'service="users"'),
        ("gatehouse_rpc_in_flight", 'rpc_method="gatehouse.users.v1.UserService/CountUsers"'),
    ):
        assert any(s.startswith(f"{name}{{") and label in s for s in samples), name


# <part admin>
def role_metrics() -> str:
    """Return the metrics of the delivery of roles, which this system does not do, as text."""
    registry = CollectorRegistry()
    meters = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    delivery = DeliveryMetrics(meters.get_meter("gatehouse"))
    delivery.completed("granted")
    delivery.failed("ISSUER_UNAVAILABLE")
    return generate_latest(registry).decode()


async def test_services_expose_the_documented_metrics_with_their_labels(system: System) -> None:
    """Rules and dashboards use these; see tests/project/test_prometheus.py."""
    token = system.user_token("bob", "read:users")
    async with system.channel("users") as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        await users.CountUsers(pb.CountUsersRequest(), metadata=(("authorization", f"Bearer {token}"),))
        assert await users.CountUsers(pb.CountUsersRequest()).code() is grpc.StatusCode.UNAUTHENTICATED
    exposed: dict[str, set[str]] = {}
    added = {"le", "otel_scope_name", "otel_scope_schema_url", "otel_scope_version"}
    for text in (*(system.metrics(name) for name in NAMES), role_metrics()):
        for found in text_string_to_metric_families(text):
            for sample in found.samples:
                if not sample.name.endswith(("_created", "_info")):
                    labels = exposed.setdefault(family(sample.name), set())
                    labels |= sample.labels.keys() - added
    # Only a service with standbys has this one; tests/storage/test_standbys.py compares its labels.
    reads = {"gatehouse_database_reads_total": {"service", "source"}}
    assert exposed | reads == documented()


# </part admin>
