"""The delivery worker: role changes reach Keycloak despite outages, crashes and other workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from gatehouse.admin.metrics import DeliveryMetrics
from gatehouse.admin.outbox import Identity, RoleOutbox
from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.v1 import admin_pb2
from gatehouse.storage import Caller, Database
from gatehouse.users.v1 import users_pb2
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.role_sync import FAST, ISSUER, RoleSync
from tests.support.services import run_sql
from tests.support.telemetry import Spans


async def until_failed(role_sync: RoleSync, reason: str) -> None:
    await eventually(lambda: reason in role_sync.logged("reason"))


async def hang(_: Request) -> Reply | None:
    """Never respond."""
    await asyncio.Event().wait()
    return None


async def test_granted_and_revoked_roles_reach_keycloak(role_sync: RoleSync) -> None:
    await role_sync.open_worker()
    user_id, subject = await role_sync.add_user()
    await role_sync.change_roles(user_id, grant=["admin", "editor"])
    await role_sync.until_delivered()
    assert role_sync.keycloak.user_roles[subject] == {"user", "admin", "editor"}
    await role_sync.change_roles(user_id, revoke=["admin"])
    await role_sync.until_delivered()
    assert role_sync.keycloak.user_roles[subject] == {"user", "editor"}


async def test_notification_wakes_the_worker_before_its_next_poll(role_sync: RoleSync) -> None:
    await role_sync.open_worker(schedule=replace(FAST, poll=3600.0))
    user_id, subject = await role_sync.add_user()

    async def delivered() -> bool:
        # One notification may arrive before the worker waits for it.
        await role_sync.change_roles(user_id, revoke=["editor"])
        await role_sync.change_roles(user_id, grant=["admin", "editor"])
        return "admin" in role_sync.keycloak.user_roles[subject]

    await eventually(delivered, interval=0.05)


async def test_change_of_an_unknown_identity_waits_until_it_is_known(
    role_sync: RoleSync, database_urls: dict[str, str]
) -> None:
    user_id, subject = await role_sync.add_user(signed_in=False)
    await role_sync.open_worker()
    await role_sync.change_roles(user_id, grant=["admin"])
    await until_failed(role_sync, "identity_unknown")
    assert role_sync.keycloak.requests == []
    await run_sql(
        database_urls["owner"],
        "UPDATE users.users SET issuer = %s, subject = %s WHERE user_id = %s",
        (ISSUER, subject, user_id),
    )
    await role_sync.until_delivered()
    assert "admin" in role_sync.keycloak.user_roles[subject]


async def test_unknown_role_does_not_delay_other_changes(role_sync: RoleSync) -> None:
    first, subject = await role_sync.add_user()
    second, other_subject = await role_sync.add_user()
    await role_sync.change_roles(first, grant=["new"])
    await role_sync.open_worker(schedule=replace(FAST, batch=1))
    await until_failed(role_sync, "role_unknown")
    await role_sync.change_roles(first, grant=["admin"])
    await role_sync.change_roles(second, grant=["admin"])
    await role_sync.until_delivered(but=1)
    assert "admin" in role_sync.keycloak.user_roles[subject]
    assert "admin" in role_sync.keycloak.user_roles[other_subject]
    listed = await role_sync.services.admin.ListRoleChanges(admin_pb2.ListRoleChangesRequest(user_id=first))
    done, waiting = listed.role_changes
    assert (done.role, done.HasField("complete_time")) == ("admin", True)
    assert (waiting.role, waiting.HasField("complete_time")) == ("new", False)
    assert (done.HasField("next_attempt_time"), waiting.HasField("next_attempt_time")) == (False, True)
    assert waiting.attempt_count > 0
    role_sync.keycloak.roles["new"] = "id-of-new"
    await role_sync.until_delivered()
    assert "new" in role_sync.keycloak.user_roles[subject]


async def test_revoking_an_unknown_role_completes_its_change(role_sync: RoleSync) -> None:
    user_id, _ = await role_sync.add_user()
    await role_sync.open_worker()
    await role_sync.change_roles(user_id, grant=["unknown"])
    await until_failed(role_sync, "role_unknown")
    await role_sync.change_roles(user_id, revoke=["unknown"])
    await role_sync.until_delivered()


async def test_changes_during_an_outage_are_delivered_after_it(role_sync: RoleSync) -> None:
    users = [await role_sync.add_user() for _ in range(5)]
    await role_sync.keycloak.stop()
    await role_sync.open_worker()
    for user_id, _ in users:
        await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.change_roles(users[0][0], revoke=["admin"])
    await until_failed(role_sync, "unreachable")
    assert await role_sync.pending() == 5
    await role_sync.keycloak.start()
    await role_sync.until_delivered()
    admins = ["admin" in role_sync.keycloak.user_roles[subject] for _, subject in users]
    assert admins == [False, True, True, True, True]


async def test_one_change_at_a_time_is_attempted_during_an_outage(role_sync: RoleSync) -> None:
    for _ in range(5):
        user_id, _ = await role_sync.add_user()
        await role_sync.change_roles(user_id, grant=["admin"])
    role_sync.keycloak.respond_with(Reply(status=503))
    await role_sync.open_worker(schedule=replace(FAST, batch=2))
    await eventually(lambda: len(role_sync.log) >= 6)
    assert len(role_sync.keycloak.requests) <= len(role_sync.log) + 1
    role_sync.keycloak.override = None
    await role_sync.until_delivered()


async def test_several_workers_deliver_the_newest_change_last(role_sync: RoleSync) -> None:
    users = [await role_sync.add_user() for _ in range(6)]
    for _ in range(3):
        await role_sync.open_worker(schedule=replace(FAST, batch=2))
    for change in ({"grant": ["admin"]}, {"revoke": ["admin"]}) * 2:
        await asyncio.gather(*(role_sync.change_roles(user_id, **change) for user_id, _ in users))
    for user_id, _ in users[:3]:
        await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.until_delivered()
    admins = ["admin" in role_sync.keycloak.user_roles[subject] for _, subject in users]
    assert admins == [True] * 3 + [False] * 3


async def test_slow_grant_of_one_worker_is_not_overtaken_by_a_revoke_of_another(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    outbox = RoleOutbox(role_sync.database, 60.0)
    received, respond = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Reply | None:
        if request.method == "POST":
            received.set()
            await respond.wait()
        return None

    role_sync.keycloak.override = slow
    await role_sync.open_worker(outbox=outbox)
    await role_sync.change_roles(user_id, grant=["admin"])
    await received.wait()
    other = await role_sync.open_worker(outbox=outbox, start=False)
    await role_sync.change_roles(user_id, revoke=["admin"])
    assert await other.deliver_due(10) == (0, False)
    respond.set()
    await role_sync.until_delivered()
    assert role_sync.keycloak.writes == [("POST", "admin"), ("DELETE", "admin")]
    assert role_sync.keycloak.user_roles[subject] == {"user"}


async def test_delivery_of_a_crashed_worker_is_repeated(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    await role_sync.change_roles(user_id, grant=["admin"])

    class CrashingOutbox(RoleOutbox):
        async def complete(self, _: Any) -> None:
            raise asyncio.CancelledError

    crashing = await role_sync.open_worker(outbox=CrashingOutbox(role_sync.database, 0.2), start=False)
    with pytest.raises(asyncio.CancelledError):
        await crashing.deliver_due(1)
    assert role_sync.keycloak.user_roles[subject] == {"user", "admin"}
    assert await role_sync.pending() == 1
    await role_sync.open_worker()
    await role_sync.until_delivered()
    assert role_sync.keycloak.user_roles[subject] == {"user", "admin"}


async def test_delivery_of_a_stopped_worker_is_repeated(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    role_sync.keycloak.override = hang
    stopped = await role_sync.open_worker()
    await role_sync.change_roles(user_id, grant=["admin"])
    await eventually(lambda: role_sync.keycloak.requests)
    await stopped.aclose()
    role_sync.keycloak.override = None
    await role_sync.open_worker()
    await role_sync.until_delivered()
    assert "admin" in role_sync.keycloak.user_roles[subject]


async def test_attempt_times_out_and_keeps_its_lease(role_sync: RoleSync) -> None:
    user_id, _ = await role_sync.add_user()
    role_sync.keycloak.override = hang
    outbox = RoleOutbox(role_sync.database, 60.0)
    worker = await role_sync.open_worker(outbox=outbox, schedule=replace(FAST, attempt=0.05), start=False)
    await role_sync.change_roles(user_id, grant=["admin"])
    assert await worker.deliver_due(1) == (1, True)
    assert role_sync.logged("reason") == ["timeout"]
    assert await outbox.claim(1) == []


async def test_unexpected_error_is_logged_and_retried(role_sync: RoleSync) -> None:
    user_id, _ = await role_sync.add_user()
    await role_sync.change_roles(user_id, grant=["admin"])
    worker = await role_sync.open_worker(start=False)
    await role_sync.http.aclose()
    assert await worker.deliver_due(1) == (1, False)
    assert role_sync.logged("reason") == ["internal"]
    assert role_sync.logged("error_type") == ["builtins.RuntimeError"]
    assert await role_sync.pending() == 1


async def test_change_of_a_deleted_user_without_an_identity_is_dropped(role_sync: RoleSync) -> None:
    user_id, _ = await role_sync.add_user(signed_in=False)
    await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.services.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=user_id))
    await role_sync.open_worker()
    await role_sync.until_delivered()
    await eventually(lambda: role_sync.logged("outcome") == ["user_deleted"])
    assert role_sync.keycloak.requests == []


async def test_role_of_a_deleted_user_is_revoked(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    role_sync.keycloak.user_roles[subject].add("admin")
    await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.change_roles(user_id, revoke=["admin"])
    await role_sync.services.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=user_id))
    await role_sync.open_worker()
    await role_sync.until_delivered()
    assert role_sync.keycloak.user_roles[subject] == {"user"}


async def test_user_of_another_issuer_with_the_same_subject_is_left_alone(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user(issuer="https://other.test")
    await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.open_worker()
    await role_sync.until_delivered()
    await eventually(lambda: role_sync.logged("outcome") == ["other_issuer"])
    assert role_sync.keycloak.user_roles[subject] == {"user"}


async def test_change_is_retried_while_user_service_is_unavailable(role_sync: RoleSync) -> None:
    user_id, _ = await role_sync.add_user(signed_in=False)
    await role_sync.change_roles(user_id, grant=["admin"])
    await role_sync.services.users_server.stop(0)
    worker = await role_sync.open_worker(schedule=replace(FAST, attempt=0.5), start=False)
    assert await worker.deliver_due(1) == (1, True)
    assert set(role_sync.logged("reason")) <= {"user_service_unavailable", "timeout"}
    assert await role_sync.pending() == 1


async def test_worker_survives_an_unavailable_database(role_sync: RoleSync) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", connect_timeout=0.2)
    worker = await role_sync.open_worker(outbox=RoleOutbox(database))
    await eventually(lambda: len(role_sync.log) >= 2)
    assert set(role_sync.logged("reason")) == {"DATABASE_UNAVAILABLE"}
    async with asyncio.timeout(10):
        await worker.aclose()
    await database.aclose()


async def test_metrics_have_the_backlog_and_the_results(role_sync: RoleSync) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    user_id, subject = await role_sync.add_user()
    await role_sync.change_roles(user_id, grant=["admin", "unknown"])
    await role_sync.open_worker(metrics=DeliveryMetrics(meters.get_meter("test")))

    def measure(name: str, **labels: str) -> float:
        data = reader.get_metrics_data()
        assert data is not None
        return sum(
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
            and metric.name == f"gatehouse.role_outbox.{name}"
            and dict(point.attributes or {}) == labels
        )

    await eventually(lambda: measure("failures", reason="role_unknown") > 0)
    await eventually(lambda: measure("deliveries", outcome="granted") == 1)
    await eventually(lambda: measure("pending") == 1)
    await eventually(lambda: measure("oldest_age") > 0)
    await role_sync.change_roles(user_id, revoke=["unknown"])
    await eventually(lambda: measure("pending") == 0)
    assert "admin" in role_sync.keycloak.user_roles[subject]


async def test_log_lines_have_the_result_and_not_the_user(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    await role_sync.open_worker()
    await role_sync.change_roles(user_id, grant=["admin", "unknown"])
    events = {"role change completed", "role change failed"}
    await eventually(lambda: events <= set(role_sync.logged("event")))
    text = repr(role_sync.log)
    assert user_id not in text
    assert subject not in text
    line = next(line for line in role_sync.log if line["event"] == "role change failed")
    assert (line["role"], line["granted"], line["reason"]) == ("unknown", True, "role_unknown")
    assert line["attempts"] >= 1
    assert line["retry_seconds"] >= 0


async def test_span_of_a_delivery_is_in_the_trace_of_the_call(role_sync: RoleSync) -> None:
    spans = Spans()
    user_id, subject = await role_sync.add_user()
    repository = AdminRepository(role_sync.database, lambda: 1_800_000_000.0)
    with spans.tracer.start_as_current_span("call"):
        await repository.update_roles(
            user_id, Identity(ISSUER, subject), ["unknown"], [], Caller(ISSUER, "alice", "console", "test")
        )
    worker = await role_sync.open_worker(tracer=spans.tracer, start=False)
    await worker.deliver_due(1)
    call, delivery = spans.finished()
    assert delivery.parent is not None
    assert call.context is not None
    assert (delivery.parent.trace_id, delivery.parent.span_id) == (
        call.context.trace_id,
        call.context.span_id,
    )
    assert (delivery.attributes or {})["error.type"] == "role_unknown"
