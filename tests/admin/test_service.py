"""AdminService over gRPC, with UserService behind it."""

import asyncio
import uuid

import grpc
import grpc.aio
import pytest

from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.oauth import InvalidToken
from gatehouse.users.v1 import users_pb2
from tests.support.services import Services


async def make_user(services: Services) -> str:
    user = users_pb2.User(email=f"{uuid.uuid4().hex}@example.test", display_name="Bob")
    return (await services.users.CreateUser(users_pb2.CreateUserRequest(user=user))).user_id


async def test_roles_are_granted_and_revoked_and_each_change_is_in_the_trail_once(services: Services) -> None:
    user_id = await make_user(services)
    for _ in range(2):
        answer = await services.admin.ManageRoles(
            pb.ManageRolesRequest(user_id=user_id, grant_roles=["admin", "user"])
        )
        assert [b.role for b in answer.role_bindings] == ["admin", "user"]
    answer = await services.admin.ManageRoles(
        pb.ManageRolesRequest(user_id=user_id, grant_roles=["auditor"], revoke_roles=["admin", "nothing"])
    )
    assert [b.role for b in answer.role_bindings] == ["auditor", "user"]
    assert {b.granted_by for b in answer.role_bindings} == {"subject-of-alice"}
    events = await services.admin.ListAuditEvents(
        pb.ListAuditEventsRequest(resource=f"users/{user_id}/roles/admin")
    )
    assert [e.action for e in events.audit_events] == ["role.revoked", "role.granted"]
    assert events.audit_events[0].method == "gatehouse.admin.v1.AdminService/ManageRoles"


async def test_managing_roles_asks_the_issuer_online(services: Services) -> None:
    user_id = await make_user(services)
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["user"]))
    assert ("alice", True) in services.verifier.asked


async def test_a_role_of_nobody_is_not_found(services: Services) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.admin.ManageRoles(
            pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["user"])
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "request_",
    [
        pb.ManageRolesRequest(grant_roles=["user"]),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4())),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["user"], revoke_roles=["user"]),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["No Role"]),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    services: Services, request_: pb.ManageRolesRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.admin.ManageRoles(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_stats_bring_both_services_together(services: Services) -> None:
    user_id = await make_user(services)
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["counted"]))
    stats = await services.admin.GetStats(pb.GetStatsRequest())
    assert stats.user_count == stats.active_user_count + stats.suspended_user_count > 0
    assert {c.role: c.user_count for c in stats.role_counts}["counted"] == 1
    assert stats.role_binding_count == sum(c.user_count for c in stats.role_counts)
    assert stats.audit_event_count > 0


async def test_bindings_and_events_come_in_pages(services: Services) -> None:
    user_id = await make_user(services)
    roles = ["a", "b", "c", "d", "e"]
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=roles))
    found: list[str] = []
    token = ""
    while True:
        page = await services.admin.ListRoleBindings(
            pb.ListRoleBindingsRequest(user_id=user_id, page_size=2, page_token=token)
        )
        found += [b.role for b in page.role_bindings]
        token = page.next_page_token
        if not token:
            break
    assert found == roles
    only = await services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(user_id=user_id, role="c"))
    assert [b.role for b in only.role_bindings] == ["c"]
    seen: list[str] = []
    while True:
        events = await services.admin.ListAuditEvents(
            pb.ListAuditEventsRequest(subject="subject-of-alice", page_size=3, page_token=token)
        )
        seen += [e.audit_event_id for e in events.audit_events]
        token = events.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) >= 5
    assert seen == sorted(seen, reverse=True)


async def test_the_callers_of_admin_never_see_a_refusal_of_its_own_token(services: Services) -> None:
    services.verifier.answers["admin-service"] = InvalidToken("token_inactive")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.admin.GetStats(pb.GetStatsRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_user_service_that_is_away_makes_admin_unavailable(services: Services) -> None:
    await services.users_server.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.admin.GetStats(pb.GetStatsRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_figures_come_from_one_moment_while_others_write(services: Services) -> None:
    """Each change grants two roles and leaves two events: no snapshot may see one without the other."""
    ids = [await make_user(services) for _ in range(4)]
    stop = asyncio.Event()

    async def grant_and_revoke(user_id: str) -> None:
        while not stop.is_set():
            for change in ({"grant_roles": ["left", "right"]}, {"revoke_roles": ["left", "right"]}):
                await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, **change))

    before = (await services.admin.GetStats(pb.GetStatsRequest())).audit_event_count
    writers = [asyncio.create_task(grant_and_revoke(user_id)) for user_id in ids]
    for _ in range(25):
        stats = await services.admin.GetStats(pb.GetStatsRequest())
        counts = {c.role: c.user_count for c in stats.role_counts}
        assert counts.get("left", 0) == counts.get("right", 0)
        assert (stats.audit_event_count - before) % 2 == 0
        assert stats.role_binding_count == sum(counts.values())
    stop.set()
    await asyncio.gather(*writers)
    assert (await services.admin.GetStats(pb.GetStatsRequest())).audit_event_count > before


async def test_user_service_is_asked_with_the_token_of_admin_service_and_never_the_callers(
    services: Services,
) -> None:
    services.verifier.asked.clear()
    await services.admin.GetStats(pb.GetStatsRequest())
    assert [token for token, _ in services.verifier.asked] == ["alice", "admin-service"]


async def test_roles_that_change_at_once_leave_each_event_once(services: Services) -> None:
    user_id = await make_user(services)
    request = pb.ManageRolesRequest(user_id=user_id, grant_roles=["once"])
    await asyncio.gather(*(services.admin.ManageRoles(request) for _ in range(6)))
    events = await services.admin.ListAuditEvents(
        pb.ListAuditEventsRequest(resource=f"users/{user_id}/roles/once")
    )
    assert [e.action for e in events.audit_events] == ["role.granted"]


@pytest.mark.parametrize("token", ["nonsense", "WyJhIiwiYiJd", "WyJhIiwiYiIsImMiXQ"])
async def test_a_page_token_that_is_none_is_refused(services: Services, token: str) -> None:
    for call in (
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(page_token=token)),
        services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(page_token=token)),
    ):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_query_that_no_text_can_match_is_refused(services: Services) -> None:
    for call in (
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(resource="\0")),
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(subject="\0")),
        services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(role="\0")),
    ):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
