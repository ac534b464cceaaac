"""The outbox: written with the binding, leased to one at a time, and the newest change of a role wins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import grpc.aio
import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.admin.outbox import Change, RoleOutbox
from gatehouse.admin.tables import role_outbox
from gatehouse.admin.v1 import admin_pb2
from tests.support.stage import ISSUER, Stage


async def claim_one(outbox: RoleOutbox) -> Change:
    """Claims as soon as there is something."""
    async with asyncio.timeout(20):
        while not (found := await outbox.claim(1)):
            await asyncio.sleep(0.01)
    return found[0]


def told(changes: Sequence[Change]) -> set[tuple[str, bool]]:
    return {(c.role, c.granted) for c in changes}


async def test_only_what_changes_goes_into_the_outbox_with_who_the_user_is(stage: Stage) -> None:
    user_id, subject = await stage.person()
    await stage.manage(user_id, grant=["admin", "editor"])
    await stage.manage(user_id, grant=["admin"], revoke=["never-held"])
    rows = await stage.rows()
    assert {(r.role, r.granted, r.issuer, r.subject) for r in rows} == {
        ("admin", True, ISSUER, subject),
        ("editor", True, ISSUER, subject),
    }
    assert told(await stage.outbox.claim(10)) == {("admin", True), ("editor", True)}


async def test_a_binding_is_not_written_without_its_row_in_the_outbox(
    stage: Stage, database_urls: dict[str, str]
) -> None:
    user_id, _ = await stage.person()
    with psycopg.connect(database_urls["owner"], autocommit=True) as owner:
        owner.execute("REVOKE INSERT ON admin.role_outbox FROM gatehouse_admin")
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stage.manage(user_id, grant=["admin"])
        finally:
            owner.execute("GRANT INSERT ON admin.role_outbox TO gatehouse_admin")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    bindings = await stage.services.admin.ListRoleBindings(admin_pb2.ListRoleBindingsRequest(user_id=user_id))
    assert list(bindings.role_bindings) == []
    events = await stage.services.admin.ListAuditEvents(
        admin_pb2.ListAuditEventsRequest(resource=f"users/{user_id}/roles/admin")
    )
    assert list(events.audit_events) == []


async def test_a_change_belongs_to_one_until_the_lease_runs_out(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    first = await claim_one(stage.outbox)
    assert await stage.outbox.claim(1) == []
    second = await claim_one(stage.outbox)
    assert (first.attempts, second.attempts) == (1, 2)
    assert first.lease_id != second.lease_id


async def test_who_lost_the_lease_does_not_end_that_of_another(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    late = await claim_one(RoleOutbox(stage.database, 0.0))
    await claim_one(RoleOutbox(stage.database, 60.0))
    await stage.outbox.finish(late)
    await stage.outbox.put_back(late, 0.0, uncertain=False)
    assert (await stage.outbox.backlog()).pending == 1
    assert await stage.outbox.claim(1) == []


async def test_what_is_delivered_is_not_claimed_again_and_pruned_after_a_day(
    stage: Stage, database_urls: dict[str, str]
) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin", "editor"])
    for change in await stage.outbox.claim(2):
        await stage.outbox.finish(change)
    assert await stage.outbox.claim(2) == []
    assert await stage.outbox.prune() == 0
    with psycopg.connect(database_urls["owner"], autocommit=True) as owner:
        owner.execute(
            "UPDATE admin.role_outbox SET done_time = done_time - interval '25 hours' WHERE role = 'admin'"
        )
    assert await stage.outbox.prune() == 1
    assert [r.role for r in await stage.rows()] == ["editor"]


async def test_a_newer_change_takes_the_place_of_one_that_waits(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    failed = await claim_one(stage.outbox)
    await stage.outbox.put_back(failed, 3600.0, uncertain=False)
    await stage.manage(user_id, revoke=["admin"])
    newer = await claim_one(stage.outbox)
    assert (newer.granted, newer.attempts) == (False, 1)
    await stage.outbox.finish(newer)
    assert (await stage.outbox.backlog()).pending == 0


async def test_a_newer_change_is_not_begun_while_an_older_one_is_under_way(stage: Stage) -> None:
    outbox = RoleOutbox(stage.database, 60.0)
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    older = await claim_one(outbox)
    await stage.manage(user_id, revoke=["admin"])
    assert await outbox.claim(1) == []
    await outbox.finish(older)
    newer = await claim_one(outbox)
    assert newer.granted is False


async def test_a_failure_of_an_older_change_does_not_put_a_newer_one_off(stage: Stage) -> None:
    outbox = RoleOutbox(stage.database, 60.0)
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    older = await claim_one(outbox)
    await stage.manage(user_id, revoke=["admin"])
    await outbox.put_back(older, 3600.0, uncertain=False)
    assert (await claim_one(outbox)).granted is False


async def test_after_an_unclear_answer_nothing_newer_is_begun_before_the_lease_ends(stage: Stage) -> None:
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin"])
    older = await claim_one(RoleOutbox(stage.database, 60.0))
    await stage.manage(user_id, revoke=["admin"])
    await stage.outbox.put_back(older, 0.0, uncertain=True)
    assert await stage.outbox.claim(1) == []
    async with stage.database.write() as connection:
        await connection.execute(role_outbox.update().values(lease_end=sa.func.now()))
    assert (await claim_one(stage.outbox)).granted is False


async def test_claims_at_the_same_time_share_the_changes_out(stage: Stage) -> None:
    outbox = RoleOutbox(stage.database, 60.0)
    user_id, _ = await stage.person()
    roles = [f"role-{n}" for n in range(20)]
    await stage.manage(user_id, grant=roles)
    got: list[str] = []
    async with asyncio.timeout(20):
        while len(got) < len(roles):
            for batch in await asyncio.gather(*(outbox.claim(3) for _ in range(4))):
                got += [c.role for c in batch]
    assert sorted(got) == sorted(roles)


async def test_changes_of_one_user_at_the_same_time_end_as_the_bindings_do(stage: Stage) -> None:
    user_id, _ = await stage.person()
    for _ in range(5):
        await asyncio.gather(
            stage.manage(user_id, grant=["admin"], revoke=["editor"]),
            stage.manage(user_id, grant=["editor"], revoke=["admin"]),
            stage.manage(user_id, grant=["admin", "editor"]),
        )
        answer = await stage.services.admin.ListRoleBindings(
            admin_pb2.ListRoleBindingsRequest(user_id=user_id)
        )
        assert {r.role for r in await stage.rows() if r.granted} == {b.role for b in answer.role_bindings}


async def test_the_backlog_says_how_much_and_since_when(stage: Stage) -> None:
    empty = await stage.outbox.backlog()
    assert (empty.pending, empty.oldest_seconds) == (0, 0.0)
    user_id, _ = await stage.person()
    await stage.manage(user_id, grant=["admin", "editor"])
    async with stage.database.write() as connection:
        earlier = role_outbox.c.change_time - sa.text("interval '1 hour'")
        await connection.execute(
            role_outbox.update().where(role_outbox.c.role == "admin").values(change_time=earlier)
        )
    backlog = await stage.outbox.backlog()
    assert backlog.pending == 2
    assert 3600 <= backlog.oldest_seconds < 3700
