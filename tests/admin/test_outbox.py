"""The outbox: written with the role binding, leased to one worker, and the newest change of a role wins."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import sqlalchemy as sa

from gatehouse.admin.outbox import RoleChange, RoleOutbox
from gatehouse.admin.tables import role_outbox
from gatehouse.admin.v1 import admin_pb2
from tests.support.eventually import eventually
from tests.support.role_sync import ISSUER, RoleSync
from tests.support.services import run_sql


async def claim_one(outbox: RoleOutbox) -> RoleChange:
    """Claim one change as soon as there is one."""
    return (await eventually(lambda: outbox.claim(1)))[0]


@pytest.fixture
def outbox(role_sync: RoleSync) -> RoleOutbox:
    """An outbox whose leases do not end during a test."""
    return RoleOutbox(role_sync.database, 60.0)


@pytest.fixture
async def user_id(role_sync: RoleSync) -> str:
    return (await role_sync.add_user())[0]


async def test_outbox_gets_actual_changes_with_the_identity_of_the_user(role_sync: RoleSync) -> None:
    user_id, subject = await role_sync.add_user()
    await role_sync.change_roles(user_id, grant=["admin", "editor"])
    await role_sync.change_roles(user_id, grant=["admin"], revoke=["never-held"])
    assert {(r.role, r.granted, r.issuer, r.subject) for r in await role_sync.rows()} == {
        ("admin", True, ISSUER, subject),
        ("editor", True, ISSUER, subject),
    }
    claimed = await role_sync.outbox.claim(10)
    assert {(change.role, change.granted) for change in claimed} == {("admin", True), ("editor", True)}


async def test_role_binding_is_not_written_without_its_outbox_row(
    role_sync: RoleSync, database_urls: dict[str, str], user_id: str
) -> None:
    owner = database_urls["owner"]
    await run_sql(owner, "REVOKE INSERT ON admin.role_outbox FROM gatehouse_admin")
    try:
        request = admin_pb2.ManageRolesRequest(user_id=user_id, grant_roles=["admin"])
        code = await role_sync.services.admin.ManageRoles(request).code()
    finally:
        await run_sql(owner, "GRANT INSERT ON admin.role_outbox TO gatehouse_admin")
    assert code is grpc.StatusCode.INTERNAL
    assert await role_sync.bound_roles(user_id) == set()
    events = await role_sync.services.admin.ListAuditEvents(
        admin_pb2.ListAuditEventsRequest(resource=f"users/{user_id}/roles/admin")
    )
    assert list(events.audit_events) == []


async def test_change_is_leased_until_the_lease_ends(role_sync: RoleSync, user_id: str) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    first = await claim_one(role_sync.outbox)
    assert await role_sync.outbox.claim(1) == []
    second = await claim_one(role_sync.outbox)
    assert (first.attempts, second.attempts) == (1, 2)
    assert first.lease_id != second.lease_id


async def test_worker_that_lost_its_lease_does_not_end_the_next_one(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    late = await claim_one(RoleOutbox(role_sync.database, 0.0))
    await claim_one(outbox)
    await outbox.complete(late)
    await outbox.reschedule(late, 0.0, uncertain=False)
    assert await role_sync.pending() == 1
    assert await outbox.claim(1) == []


async def test_completed_change_is_not_claimed_again_and_pruned_after_a_day(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin", "editor"])
    for change in await outbox.claim(2):
        await outbox.complete(change)
    assert await outbox.claim(2) == []
    assert await outbox.prune() == 0
    async with role_sync.database.write() as connection:
        day_ago = role_outbox.c.done_time - sa.text("interval '25 hours'")
        await connection.execute(
            role_outbox.update().where(role_outbox.c.role == "admin").values(done_time=day_ago)
        )
    assert await outbox.prune() == 1
    assert [row.role for row in await role_sync.rows()] == ["editor"]


async def test_newer_change_replaces_a_waiting_one(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    await outbox.reschedule(await claim_one(outbox), 3600.0, uncertain=False)
    await role_sync.change_roles(user_id, revoke=["admin"])
    newer = await claim_one(outbox)
    assert (newer.granted, newer.attempts) == (False, 1)
    await outbox.complete(newer)
    assert await role_sync.pending() == 0


async def test_newer_change_waits_for_the_delivery_of_an_older_one(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    older = await claim_one(outbox)
    await role_sync.change_roles(user_id, revoke=["admin"])
    assert await outbox.claim(1) == []
    await outbox.complete(older)
    assert (await claim_one(outbox)).granted is False


async def test_failure_of_an_older_change_does_not_delay_a_newer_one(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    older = await claim_one(outbox)
    await role_sync.change_roles(user_id, revoke=["admin"])
    await outbox.reschedule(older, 3600.0, uncertain=False)
    assert (await claim_one(outbox)).granted is False


async def test_newer_change_waits_for_the_lease_of_an_uncertain_one(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    await role_sync.change_roles(user_id, grant=["admin"])
    older = await claim_one(outbox)
    await role_sync.change_roles(user_id, revoke=["admin"])
    await outbox.reschedule(older, 0.0, uncertain=True)
    assert await outbox.claim(1) == []
    async with role_sync.database.write() as connection:
        await connection.execute(role_outbox.update().values(lease_end=sa.func.now()))
    assert (await claim_one(outbox)).granted is False


async def test_concurrent_claims_share_the_changes(
    role_sync: RoleSync, outbox: RoleOutbox, user_id: str
) -> None:
    roles = [f"role-{number}" for number in range(20)]
    await role_sync.change_roles(user_id, grant=roles)
    claimed: list[str] = []

    async def all_claimed() -> bool:
        for changes in await asyncio.gather(*(outbox.claim(3) for _ in range(4))):
            claimed.extend(change.role for change in changes)
        return len(claimed) >= len(roles)

    await eventually(all_claimed)
    assert sorted(claimed) == sorted(roles)


async def test_outbox_agrees_with_the_bindings_after_concurrent_changes(
    role_sync: RoleSync, user_id: str
) -> None:
    for _ in range(5):
        await asyncio.gather(
            role_sync.change_roles(user_id, grant=["admin"], revoke=["editor"]),
            role_sync.change_roles(user_id, grant=["editor"], revoke=["admin"]),
            role_sync.change_roles(user_id, grant=["admin", "editor"]),
        )
        granted = {row.role for row in await role_sync.rows() if row.granted}
        assert granted == await role_sync.bound_roles(user_id)


async def test_backlog_has_the_number_and_the_age_of_pending_changes(
    role_sync: RoleSync, user_id: str
) -> None:
    empty = await role_sync.outbox.backlog()
    assert (empty.pending, empty.oldest_seconds) == (0, 0.0)
    await role_sync.change_roles(user_id, grant=["admin", "editor"])
    async with role_sync.database.write() as connection:
        hour_ago = role_outbox.c.change_time - sa.text("interval '1 hour'")
        await connection.execute(
            role_outbox.update().where(role_outbox.c.role == "admin").values(change_time=hour_ago)
        )
    backlog = await role_sync.outbox.backlog()
    assert backlog.pending == 2
    assert 3600 <= backlog.oldest_seconds < 3700
