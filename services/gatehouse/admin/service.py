"""RPCs of AdminService; see protos/gatehouse/admin/v1/admin.proto."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
import grpc.aio

from gatehouse.admin.outbox import Identity
from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.client import NO_TOKEN
from gatehouse.domain import NotFound, PermissionDenied, Unavailable
from gatehouse.oauth import Refusal
from gatehouse.runtime.request import current_caller, remaining_seconds, requested_page
from gatehouse.users.v1 import users_pb2, users_pb2_grpc

MAX_USERS_SECONDS = 5.0
# Time reserved for the rest of a call, after UserService has responded.
_RESERVED_SECONDS = 0.1
_Context = grpc.aio.ServicerContext[Any, Any]
Q = TypeVar("Q")
R = TypeVar("R")


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Role bindings and the audit trail.

    Args:
        repository: Reads and writes both.
        users: UserService.
        on_behalf: Whether `users` is called with tokens for the caller, not with that of AdminService.
    """

    def __init__(
        self,
        repository: AdminRepository,
        users: users_pb2_grpc.UserServiceAsyncStub,
        *,
        on_behalf: bool = False,
    ) -> None:
        self._repository = repository
        self._users = users
        self._on_behalf = on_behalf

    async def GetStats(self, request: pb.GetStatsRequest, context: _Context) -> pb.GetStatsResponse:
        """See the proto."""
        users = await self._call_users(self._users.CountUsers, users_pb2.CountUsersRequest())
        statistics = await self._repository.statistics(remaining_seconds())
        response = pb.GetStatsResponse(
            user_count=users.total_count,
            active_user_count=users.active_count,
            suspended_user_count=users.suspended_count,
            role_binding_count=sum(statistics.role_counts.values()),
            audit_event_count=statistics.audit_event_count,
            role_counts=[
                pb.RoleCount(role=role, user_count=count) for role, count in statistics.role_counts.items()
            ],
            user_snapshot_time=users.snapshot_time,
        )
        response.snapshot_time.FromDatetime(statistics.snapshot_time)
        return response

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: _Context
    ) -> pb.ListAuditEventsResponse:
        """See the proto."""
        with requested_page(request.page_token, request.page_size) as page:
            found = await self._repository.list_audit_events(
                request.resource, request.subject, request.issuer, page, remaining_seconds()
            )
        return pb.ListAuditEventsResponse(audit_events=found.rows, next_page_token=found.next_page_token)

    async def ListRoleBindings(
        self, request: pb.ListRoleBindingsRequest, context: _Context
    ) -> pb.ListRoleBindingsResponse:
        """See the proto."""
        with requested_page(request.page_token, request.page_size) as page:
            found = await self._repository.list_role_bindings(
                request.user_id, request.role, page, remaining_seconds()
            )
        return pb.ListRoleBindingsResponse(role_bindings=found.rows, next_page_token=found.next_page_token)

    async def ListRoleChanges(
        self, request: pb.ListRoleChangesRequest, context: _Context
    ) -> pb.ListRoleChangesResponse:
        """See the proto."""
        with requested_page(request.page_token, request.page_size) as page:
            found = await self._repository.list_role_changes(
                request.user_id, page, remaining_seconds(), pending=request.pending
            )
        return pb.ListRoleChangesResponse(role_changes=found.rows, next_page_token=found.next_page_token)

    async def ManageRoles(self, request: pb.ManageRolesRequest, context: _Context) -> pb.ManageRolesResponse:
        """See the proto."""
        user = await self._call_users(self._users.GetUser, users_pb2.GetUserRequest(user_id=request.user_id))
        bindings = await self._repository.update_roles(
            request.user_id,
            Identity(user.issuer, user.subject),
            request.grant_roles,
            request.revoke_roles,
            current_caller(),
            remaining_seconds(),
        )
        return pb.ManageRolesResponse(role_bindings=bindings)

    async def _call_users(self, rpc: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        """Call UserService within the deadline of the current call; see `call_users`."""
        return await call_users(rpc, request, remaining_seconds(), on_behalf=self._on_behalf)


async def call_users(
    rpc: grpc.aio.UnaryUnaryMultiCallable[Q, R],
    request: Q,
    remaining: float | None,
    *,
    on_behalf: bool = False,
) -> R:
    """Call UserService within a deadline.

    Args:
        rpc: The RPC.
        request: Its request.
        remaining: Seconds until the deadline, None if there is none.
        on_behalf: See AdminService.

    Raises:
        NotFound: The user does not exist.
        PermissionDenied: Only on behalf of the caller: the issuer, or UserService, denies it.
        Refusal: Only on behalf of the caller: the issuer no longer accepts the token of the caller.
        Unavailable: Any other error, including a rejected access token of AdminService.
    """
    timeout = MAX_USERS_SECONDS
    if remaining is not None:
        timeout = max(0.0, min(timeout, remaining - _RESERVED_SECONDS))
    try:
        return await rpc(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFound("USER_NOT_FOUND", "user not found") from None
        if isinstance(error.__cause__, PermissionDenied | Refusal):
            raise error.__cause__ from None
        if on_behalf and error.code() is grpc.StatusCode.PERMISSION_DENIED:
            raise PermissionDenied("USER_SERVICE_DENIED", "UserService does not allow it to you") from None
        no_token = (error.details() or "").startswith(NO_TOKEN)
        raise Unavailable(
            "USER_SERVICE_UNAVAILABLE",
            "UserService is unavailable; retry later",
            "NO_ACCESS_TOKEN" if no_token else error.code().name,
        ) from None
