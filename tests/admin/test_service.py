"""AdminService over gRPC, with UserService behind it."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import grpc.aio
import pytest

from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.oauth import Actor, InvalidToken
from tests.support.rpc import principal
from tests.support.services import ALL_SCOPES, Services, invalid_fields


async def test_each_role_change_adds_one_audit_event(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    for _ in range(2):
        response = await services.admin.ManageRoles(
            pb.ManageRolesRequest(user_id=user_id, grant_roles=["admin", "user"])
        )
        assert [binding.role for binding in response.role_bindings] == ["admin", "user"]
    response = await services.admin.ManageRoles(
        pb.ManageRolesRequest(user_id=user_id, grant_roles=["auditor"], revoke_roles=["admin", "nothing"])
    )
    assert [binding.role for binding in response.role_bindings] == ["auditor", "user"]
    assert {binding.granted_by for binding in response.role_bindings} == {"subject-of-alice"}
    events = await services.admin.ListAuditEvents(
        pb.ListAuditEventsRequest(resource=f"users/{user_id}/roles/admin")
    )
    assert [event.action for event in events.audit_events] == ["role.revoked", "role.granted"]
    assert events.audit_events[0].method == "gatehouse.admin.v1.AdminService/ManageRoles"


async def test_concurrent_grants_of_a_role_add_one_audit_event(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    request = pb.ManageRolesRequest(user_id=user_id, grant_roles=["once"])
    await asyncio.gather(*(services.admin.ManageRoles(request) for _ in range(6)))
    events = await services.admin.ListAuditEvents(
        pb.ListAuditEventsRequest(resource=f"users/{user_id}/roles/once")
    )
    assert [event.action for event in events.audit_events] == ["role.granted"]


async def test_manage_roles_verifies_the_token_online(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["user"]))
    assert ("alice", True) in services.verifier.asked


async def test_missing_user_is_not_found(services: Services) -> None:
    request = pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["user"])
    assert await services.admin.ManageRoles(request).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "request_",
    [
        pb.ManageRolesRequest(grant_roles=["user"]),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4())),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["user"], revoke_roles=["user"]),
        pb.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["No Role"]),
    ],
)
async def test_invalid_role_change_is_rejected(services: Services, request_: pb.ManageRolesRequest) -> None:
    assert await services.admin.ManageRoles(request_).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_stats_combine_both_services(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["counted"]))
    stats = await services.admin.GetStats(pb.GetStatsRequest())
    assert stats.user_count == stats.active_user_count + stats.suspended_user_count > 0
    assert {count.role: count.user_count for count in stats.role_counts}["counted"] == 1
    assert stats.role_binding_count == sum(count.user_count for count in stats.role_counts)
    assert stats.audit_event_count > 0


async def test_stats_come_from_one_snapshot(services: Services) -> None:
    """Each change affects two roles and adds two events, so no snapshot may see one without the other."""
    users = [await services.create_user() for _ in range(4)]
    stop = asyncio.Event()

    async def grant_and_revoke(user_id: str) -> None:
        while not stop.is_set():
            for change in ({"grant_roles": ["left", "right"]}, {"revoke_roles": ["left", "right"]}):
                await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, **change))

    before = (await services.admin.GetStats(pb.GetStatsRequest())).audit_event_count
    writers = [asyncio.create_task(grant_and_revoke(user.user_id)) for user in users]
    for _ in range(25):
        stats = await services.admin.GetStats(pb.GetStatsRequest())
        counts = {count.role: count.user_count for count in stats.role_counts}
        assert counts.get("left", 0) == counts.get("right", 0)
        assert (stats.audit_event_count - before) % 2 == 0
        assert stats.role_binding_count == sum(counts.values())
    stop.set()
    await asyncio.gather(*writers)
    assert (await services.admin.GetStats(pb.GetStatsRequest())).audit_event_count > before


async def test_role_bindings_are_listed_by_page_and_filter(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    roles = ["a", "b", "c", "d", "e"]
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=roles))
    request = pb.ListRoleBindingsRequest(user_id=user_id, page_size=2)
    pages: list[list[str]] = []
    while not pages or request.page_token:
        response = await services.admin.ListRoleBindings(request)
        pages.append([binding.role for binding in response.role_bindings])
        request.page_token = response.next_page_token
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    response = await services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(user_id=user_id, role="c"))
    assert [binding.role for binding in response.role_bindings] == ["c"]


async def test_role_changes_are_listed_by_page_newest_first(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    for change in ({"grant_roles": ["a"]}, {"grant_roles": ["b", "c"]}, {"revoke_roles": ["a"]}):
        await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, **change))
    request = pb.ListRoleChangesRequest(user_id=user_id, page_size=2, pending=True)
    pages: list[list[tuple[str, bool]]] = []
    while not pages or request.page_token:
        response = await services.admin.ListRoleChanges(request)
        pages.append([(change.role, change.granted) for change in response.role_changes])
        request.page_token = response.next_page_token
    assert [len(page) for page in pages] == [2, 1]
    first, *others = [change for page in pages for change in page]
    assert first == ("a", False)
    assert sorted(others) == [("b", True), ("c", True)]  # of the same moment, so in any order
    (newest, *_) = (await services.admin.ListRoleChanges(pb.ListRoleChangesRequest())).role_changes
    assert (newest.user_id, newest.role) == (user_id, "a")
    assert newest.change_time.ToSeconds() > 0


async def test_audit_events_are_listed_by_page_newest_first(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    for role in ("a", "b", "c", "d"):
        await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=[role]))
    request = pb.ListAuditEventsRequest(subject="subject-of-alice", page_size=3)
    ids: list[str] = []
    while not ids or request.page_token:
        response = await services.admin.ListAuditEvents(request)
        ids += [event.audit_event_id for event in response.audit_events]
        request.page_token = response.next_page_token
    assert len(ids) == len(set(ids)) >= 4
    assert ids == sorted(ids, reverse=True)


async def test_callers_of_two_issuers_with_equal_subjects_are_distinguished(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    for role in ("a", "b"):
        issuer = f"https://{role}.test"
        services.verifier.answers["alice"] = principal(*ALL_SCOPES, roles=("admin",), issuer=issuer)
        response = await services.admin.ManageRoles(
            pb.ManageRolesRequest(user_id=user_id, grant_roles=[role])
        )
    assert [(binding.role, binding.granted_by_issuer) for binding in response.role_bindings] == [
        ("a", "https://a.test"),
        ("b", "https://b.test"),
    ]
    request = pb.ListAuditEventsRequest(subject="subject-of-alice", issuer="https://b.test")
    events = (await services.admin.ListAuditEvents(request)).audit_events
    assert [(event.issuer, event.resource) for event in events] == [
        ("https://b.test", f"users/{user_id}/roles/b")
    ]
    request.page_size = 1
    request.subject = ""
    assert await invalid_fields(services.admin.ListAuditEvents(request)) == [""]


async def test_audit_event_shows_the_actor(services: Services) -> None:
    user_id = (await services.create_user()).user_id
    services.verifier.answers["alice"] = principal(
        *ALL_SCOPES, roles=("admin",), actor=Actor("https://sts.test", "support")
    )
    await services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["user"]))
    request = pb.ListAuditEventsRequest(resource=f"users/{user_id}/roles/user")
    (event,) = (await services.admin.ListAuditEvents(request)).audit_events
    assert (event.subject, event.actor_issuer, event.actor_subject) == (
        "subject-of-alice",
        "https://sts.test",
        "support",
    )


@pytest.mark.parametrize("token", ["nonsense", "WyJhIiwiYiJd", "WyJhIiwiYiIsImMiXQ"])
async def test_invalid_page_token_is_rejected(services: Services, token: str) -> None:
    for call in (
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(page_token=token)),
        services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(page_token=token)),
        services.admin.ListRoleChanges(pb.ListRoleChangesRequest(page_token=token)),
    ):
        assert await invalid_fields(call) == ["page_token"]


async def test_filter_with_text_that_cannot_be_stored_is_rejected(services: Services) -> None:
    for call in (
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(resource="\0")),
        services.admin.ListAuditEvents(pb.ListAuditEventsRequest(subject="\0")),
        services.admin.ListRoleBindings(pb.ListRoleBindingsRequest(role="\0")),
    ):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_user_service_is_called_with_the_token_of_admin_service(services: Services) -> None:
    services.verifier.asked.clear()
    await services.admin.GetStats(pb.GetStatsRequest())
    assert [token for token, _ in services.verifier.asked] == ["alice", "admin-service"]


async def test_rejected_token_of_admin_service_is_unavailable_to_callers(services: Services) -> None:
    services.verifier.answers["admin-service"] = InvalidToken("token_inactive")
    call = services.admin.GetStats(pb.GetStatsRequest(), timeout=30)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_stopped_user_service_is_unavailable_to_callers(services: Services) -> None:
    await services.users_server.stop(0)
    call = services.admin.GetStats(pb.GetStatsRequest(), timeout=30)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
