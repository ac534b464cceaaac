"""Callers in the running system: two issuers whose subjects are equal."""

# <part admin/>

from __future__ import annotations

import uuid
from typing import Any

import grpc

from gatehouse.admin.v1 import admin_pb2, admin_pb2_grpc
from gatehouse.client import StaticToken
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from tests.support.system import System, issuer_url

SCOPE = "read:users write:users admin manage:roles"


def user_request(request_id: str) -> users_pb2.CreateUserRequest:
    email = f"{uuid.uuid4().hex}@example.test"
    return users_pb2.CreateUserRequest(
        user=users_pb2.User(email=email, display_name="Carol"), request_id=request_id
    )


async def test_callers_with_equal_subjects_at_two_issuers_are_two_callers(system: System) -> None:
    """Both issuers have the same realm, so alice has one `sub` at both."""
    request_id = str(uuid.uuid4())
    created: dict[str, users_pb2.User] = {}
    subjects = set()
    for issuer, port in system.issuer_ports.items():
        token = StaticToken(system.user_token("alice", SCOPE, issuer))
        async with system.channel("users", tokens=token) as channel:
            users: Any = users_pb2_grpc.UserServiceStub(channel)
            for user in created.values():  # her request id is no key to the response of the other alice
                repeated = users_pb2.CreateUserRequest(
                    user=users_pb2.User(email=user.email, display_name="Carol"), request_id=request_id
                )
                assert await users.CreateUser(repeated).code() is grpc.StatusCode.ALREADY_EXISTS
            user = await users.CreateUser(user_request(request_id))
        created[issuer] = user
        async with system.channel("admin", tokens=token) as channel:
            admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
            granted = await admin.ManageRoles(
                admin_pb2.ManageRolesRequest(user_id=user.user_id, grant_roles=["user"])
            )
            assert [one.granted_by_issuer for one in granted.role_bindings] == [issuer_url(port)]
            subject = granted.role_bindings[0].granted_by
            events = await admin.ListAuditEvents(
                admin_pb2.ListAuditEventsRequest(subject=subject, issuer=issuer_url(port))
            )
            assert events.audit_events[0].resource == f"users/{user.user_id}/roles/user"
            assert {event.issuer for event in events.audit_events} == {issuer_url(port)}
        subjects.add(subject)
    assert len(subjects) == 1
