"""The worker: a role given here is a role there, through outages, crashes and other workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from gatehouse.admin.delivery import DeliveryMetrics
from gatehouse.admin.outbox import Identity, RoleOutbox
from gatehouse.admin.repository import AdminRepository
from gatehouse.storage import Actor, Database
from gatehouse.users.v1 import users_pb2
from tests.support.provider import Asked, Said
from tests.support.stage import ISSUER, QUICK, Stage, until
from tests.support.telemetry import Spans


def reasons(stage: Stage) -> set[str]:
    return {str(line["reason"]) for line in stage.lines if "reason" in line}


async def test_a_role_given_here_is_a_role_there_until_it_is_taken(stage: Stage) -> None:
    await stage.worker()
    user_id, subject = await stage.person()
    await stage.manage(user_id, grant=["admin", "editor"])
    await stage.settled()
    assert stage.provider.held[subject] == {"user", "admin", "editor"}
    await stage.manage(user_id, revoke=["admin"])
    await stage.settled()
    assert stage.provider.held[subject] == {"user", "editor"}


async def test_a_notification_wakes_the_worker_long_before_it_looks_again(stage: Stage) -> None:
    await stage.worker(pace=replace(QUICK, poll=3600.0))
    user_id, subject = await stage.person()
    async with asyncio.timeout(20):
        while "admin" not in stage.provider.held[subject]:
            # One notification may come before the worker waits for it.
            await stage.manage(user_id, revoke=["editor"])
            await stage.manage(user_id, grant=["admin", "editor"])
            await asyncio.sleep(0.05)


async def test_a_user_who_has_not_been_seen_gets_the_role_once_the_provider_has_shown_him(
    stage: Stage, database_urls: dict[str, str]
) -> None:
    user_id, subject = await stage.person(seen=False)
    await stage.worker()
    await stage.manage(user_id, grant=["admin"])
    await until(lambda: "identity_unknown" in reasons(stage))
    assert stage.provider.journal == []
    async with await _owner(database_urls) as owner:
        await owner.execute(
            "UPDATE users.users SET issuer = %s, subject = %s WHERE user_id = %s", (ISSUER, subject, user_id)
        )
    await stage.settled()
    assert "admin" in stage.provider.held[subject]


async def _owner(database_urls: dict[str, str]) -> Any:
    import psycopg

    return await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True)


async def test_a_role_that_the_provider_does_not_know_holds_nothing_else_up(stage: Stage) -> None:
    first, subject = await stage.person()
    second, other = await stage.person()
    await stage.manage(first, grant=["not-made-yet"])
    await stage.worker(pace=replace(QUICK, batch=1))
    await until(lambda: "role_unknown" in reasons(stage))
    await stage.manage(first, grant=["admin"])
    await stage.manage(second, grant=["admin"])
    await until(lambda: "admin" in stage.provider.held[subject] and "admin" in stage.provider.held[other])
    await stage.settled(but=1)
    stage.provider.roles["not-made-yet"] = "id-of-it"
    await stage.settled()
    assert "not-made-yet" in stage.provider.held[subject]


async def test_an_undeliverable_role_that_is_taken_again_is_done_with(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.worker()
    await stage.manage(user_id, grant=["never-made"])
    await until(lambda: "role_unknown" in reasons(stage))
    await stage.manage(user_id, revoke=["never-made"])
    await stage.settled()


async def test_managing_roles_goes_on_while_the_provider_is_away_and_it_hears_of_all_afterwards(
    stage: Stage,
) -> None:
    people = [await stage.person() for _ in range(5)]
    await stage.provider.down()
    await stage.worker()
    for user_id, _ in people:
        await stage.manage(user_id, grant=["admin"])
    await stage.manage(people[0][0], revoke=["admin"])
    await until(lambda: "unreachable" in reasons(stage))
    assert (await stage.outbox.backlog()).pending == 5
    await stage.provider.up()
    await stage.settled()
    assert ["admin" in stage.provider.held[s] for _, s in people] == [False, True, True, True, True]


async def test_a_provider_that_is_away_is_asked_for_one_change_at_a_time(stage: Stage) -> None:
    for _ in range(5):
        user_id, _ = await stage.person()
        await stage.manage(user_id, grant=["admin"])
    stage.provider.answer(Said(503))
    await stage.worker(pace=replace(QUICK, batch=2))
    await until(lambda: len(stage.lines) >= 6)
    assert len(stage.provider.journal) <= len(stage.lines) + 1
    stage.provider.fault = None
    await stage.settled()


async def test_several_workers_deliver_each_change_and_the_newest_last(stage: Stage) -> None:
    people = [await stage.person() for _ in range(6)]
    for _ in range(3):
        await stage.worker(pace=replace(QUICK, batch=2))
    for round_ in range(4):
        await asyncio.gather(
            *(
                stage.manage(u, grant=["admin"]) if round_ % 2 == 0 else stage.manage(u, revoke=["admin"])
                for u, _ in people
            )
        )
    for user_id, _ in people[:3]:
        await stage.manage(user_id, grant=["admin"])
    await stage.settled()
    assert ["admin" in stage.provider.held[s] for _, s in people] == [True] * 3 + [False] * 3


async def test_a_slow_grant_of_one_worker_is_not_overtaken_by_the_revoke_of_another(stage: Stage) -> None:
    user_id, subject = await stage.person()
    outbox = RoleOutbox(stage.database, 60.0)
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(asked: Asked) -> Said | None:
        if asked.method == "POST":
            arrived.set()
            await go.wait()
        return None

    stage.provider.fault = slow
    await stage.worker(outbox=outbox)
    await stage.manage(user_id, grant=["admin"])
    await arrived.wait()
    other = await stage.worker(outbox=outbox, start=False)
    await stage.manage(user_id, revoke=["admin"])
    assert await other.deliver_due(10) == (0, False)
    go.set()
    await stage.settled()
    assert stage.provider.writes == [("POST", "admin"), ("DELETE", "admin")]
    assert stage.provider.held[subject] == {"user"}


async def test_a_worker_that_dies_after_the_provider_heard_of_it_is_followed_by_one_that_asks_again(
    stage: Stage,
) -> None:
    user_id, subject = await stage.person()
    await stage.manage(user_id, grant=["admin"])

    class Dying(RoleOutbox):
        async def finish(self, _: Any) -> None:
            raise asyncio.CancelledError

    dying = await stage.worker(outbox=Dying(stage.database, 0.2), start=False)
    with pytest.raises(asyncio.CancelledError):
        await dying.deliver_due(1)
    assert stage.provider.held[subject] == {"user", "admin"}
    assert (await stage.outbox.backlog()).pending == 1
    await stage.worker()
    await stage.settled()
    assert stage.provider.held[subject] == {"user", "admin"}


async def test_a_worker_that_is_stopped_leaves_what_was_under_way_to_the_next(stage: Stage) -> None:
    user_id, subject = await stage.person()
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang(_: Asked) -> Said | None:
        arrived.set()
        await never.wait()
        return None

    stage.provider.fault = hang
    stopped = await stage.worker()
    await stage.manage(user_id, grant=["admin"])
    await arrived.wait()
    await stopped.aclose()
    stage.provider.fault = None
    await stage.worker()
    await stage.settled()
    assert "admin" in stage.provider.held[subject]


async def test_an_attempt_that_takes_too_long_is_given_up(stage: Stage) -> None:
    user_id, _ = await stage.person()
    never = asyncio.Event()

    async def hang(_: Asked) -> Said | None:
        await never.wait()
        return None

    stage.provider.fault = hang
    worker = await stage.worker(pace=replace(QUICK, attempt=0.05), start=False)
    await stage.manage(user_id, grant=["admin"])
    assert await worker.deliver_due(1) == (1, True)
    assert reasons(stage) == {"timeout"}
    # It may still come true: nobody touches it before the lease has ended.
    assert await stage.outbox.claim(1) == []


async def test_a_fault_of_the_worker_itself_holds_up_one_change_and_is_seen(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    worker = await stage.worker(start=False)
    await stage.http.aclose()
    assert await worker.deliver_due(1) == (1, False)
    assert reasons(stage) == {"internal"}
    assert [line["error_type"] for line in stage.lines if "error_type" in line] == ["builtins.RuntimeError"]
    assert (await stage.outbox.backlog()).pending == 1


async def test_a_user_who_is_gone_without_having_been_anybody_is_dropped(stage: Stage) -> None:
    user_id, _ = await stage.person(seen=False)
    await stage.manage(user_id, grant=["admin"])
    await stage.services.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=user_id))
    await stage.worker()
    await stage.settled()
    assert [line["outcome"] for line in stage.lines if "outcome" in line] == ["user_gone"]
    assert stage.provider.journal == []


async def test_the_role_of_a_user_who_is_gone_is_still_taken(stage: Stage) -> None:
    user_id, subject = await stage.person()
    stage.provider.held[subject].add("admin")
    await stage.manage(user_id, grant=["admin"])
    await stage.manage(user_id, revoke=["admin"])
    await stage.services.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=user_id))
    await stage.worker()
    await stage.settled()
    assert stage.provider.held[subject] == {"user"}


async def test_the_user_of_another_issuer_is_not_mistaken_for_one_of_the_same_subject(stage: Stage) -> None:
    user_id, subject = await stage.person(issuer="https://other.test")
    await stage.manage(user_id, grant=["admin"])
    await stage.worker()
    await stage.settled()
    assert [line["outcome"] for line in stage.lines if "outcome" in line] == ["other_issuer"]
    assert stage.provider.held[subject] == {"user"}


async def test_user_service_that_is_away_is_asked_again(stage: Stage) -> None:
    user_id, _ = await stage.person(seen=False)
    await stage.manage(user_id, grant=["admin"])
    await stage.services.users_server.stop(0)
    worker = await stage.worker(pace=replace(QUICK, attempt=0.5), start=False)
    assert await worker.deliver_due(1) == (1, True)
    assert reasons(stage) <= {"user_service_unavailable", "timeout"}
    assert (await stage.outbox.backlog()).pending == 1


async def test_a_database_that_is_away_does_not_end_the_worker(stage: Stage) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/nothing", connect_timeout=0.2)
    worker = await stage.worker(outbox=RoleOutbox(away))
    await until(lambda: len(stage.lines) >= 2)
    assert reasons(stage) == {"Unavailable"}
    async with asyncio.timeout(10):
        await worker.aclose()
    await away.aclose()


async def test_what_is_pending_and_why_is_measured(stage: Stage) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    user_id, subject = await stage.person()
    await stage.manage(user_id, grant=["admin", "never-made"])
    await stage.worker(metrics=DeliveryMetrics(meters.get_meter("test")))

    def measured() -> dict[tuple[str, tuple[tuple[str, Any], ...]], float]:
        data = reader.get_metrics_data()
        assert data is not None
        return {
            (metric.name, tuple(sorted(dict(point.attributes or {}).items()))): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }

    failures = ("gatehouse.role_outbox.failures", (("reason", "role_unknown"),))
    delivered = ("gatehouse.role_outbox.deliveries", (("outcome", "granted"),))
    await until(lambda: failures in (now := measured()) and now.get(delivered) == 1)
    await until(lambda: measured()[("gatehouse.role_outbox.pending", ())] == 1)
    await until(lambda: measured()[("gatehouse.role_outbox.oldest_age", ())] > 0)
    await stage.manage(user_id, revoke=["never-made"])
    await until(lambda: measured()[("gatehouse.role_outbox.pending", ())] == 0)
    assert "admin" in stage.provider.held[subject]


async def test_log_lines_say_what_happened_and_not_to_whom(stage: Stage) -> None:
    user_id, subject = await stage.person()
    await stage.worker()
    await stage.manage(user_id, grant=["admin", "never-made"])
    await until(
        lambda: {"role change settled", "role change not delivered"} <= {x["event"] for x in stage.lines}
    )
    text = repr(stage.lines)
    assert user_id not in text
    assert subject not in text
    line = next(x for x in stage.lines if x["event"] == "role change not delivered")
    assert (line["role"], line["granted"], line["reason"]) == ("never-made", True, "role_unknown")
    assert line["attempts"] >= 1
    assert line["retry_seconds"] >= 0


async def test_a_delivery_is_part_of_the_trace_of_the_call_that_asked_for_it(stage: Stage) -> None:
    spans = Spans()
    user_id, subject = await stage.person()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await AdminRepository(stage.database, lambda: 1_800_000_000.0).change(
        user_id,
        ["never-made"],
        [],
        Actor("alice", "console", "test"),
        identity=Identity(ISSUER, subject),
        traceparent=f"00-{trace_id}-b7ad6b7169203331-01",
    )
    worker = await stage.worker(tracer=spans.tracer, start=False)
    await worker.deliver_due(1)
    (span,) = spans.finished()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace_id
    assert (span.attributes or {})["error.type"] == "role_unknown"
