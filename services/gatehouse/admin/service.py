"""RPCs of AdminService; see protos/gatehouse/admin/v1/admin.proto."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.admin.outbox import Identity
from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.domain import NotFound, Unavailable
from gatehouse.rpc import current_call, current_principal
from gatehouse.storage import Actor
from gatehouse.users.v1 import users_pb2, users_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
# What a call still has to do after UserService has answered.
_RESERVE_SECONDS = 0.1
_LONGEST_SECONDS = 5.0


def _left() -> float | None:
    return current_call().deadline_seconds()


def _time_for_users() -> float:
    left = _left()
    return _LONGEST_SECONDS if left is None else max(0.0, min(_LONGEST_SECONDS, left - _RESERVE_SECONDS))


def _translate(error: grpc.aio.AioRpcError) -> NoReturn:
    """Says what an answer of UserService means for the caller of this service.

    A refusal there is this service's own credentials, and no news for the caller.
    """
    if error.code() is grpc.StatusCode.NOT_FOUND:
        raise NotFound("USER_NOT_FOUND", "there is no such user") from None
    raise Unavailable("USER_SERVICE_UNAVAILABLE", "UserService is away, try again") from None


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Role bindings and the audit trail.

    Args:
        repository: Keeps them.
        users: UserService, called with this service's own token.
    """

    def __init__(self, repository: AdminRepository, users: users_pb2_grpc.UserServiceAsyncStub) -> None:
        self._repository = repository
        self._users = users

    async def GetStats(self, request: pb.GetStatsRequest, context: _Context) -> pb.GetStatsResponse:
        """See the proto."""
        try:
            users = await self._users.CountUsers(users_pb2.CountUsersRequest(), timeout=_time_for_users())
        except grpc.aio.AioRpcError as error:
            _translate(error)
        figures = await self._repository.figures(_left())
        response = pb.GetStatsResponse(
            user_count=users.total_count,
            active_user_count=users.active_count,
            suspended_user_count=users.suspended_count,
            role_binding_count=sum(figures.role_counts.values()),
            audit_event_count=figures.audit_event_count,
            role_counts=[pb.RoleCount(role=r, user_count=n) for r, n in figures.role_counts.items()],
            user_snapshot_time=users.snapshot_time,
        )
        response.snapshot_time.FromDatetime(figures.moment)
        return response

    async def ListAuditEvents(
        self,
        request: pb.ListAuditEventsRequest,
        context: _Context,
    ) -> pb.ListAuditEventsResponse:
        """See the proto."""
        page = await self._repository.list_events(
            request.resource, request.subject, request.page_token, request.page_size, _left()
        )
        return pb.ListAuditEventsResponse(audit_events=page.rows, next_page_token=page.next_page_token)

    async def ListRoleBindings(
        self,
        request: pb.ListRoleBindingsRequest,
        context: _Context,
    ) -> pb.ListRoleBindingsResponse:
        """See the proto."""
        page = await self._repository.list_bindings(
            request.user_id, request.role, request.page_token, request.page_size, _left()
        )
        return pb.ListRoleBindingsResponse(role_bindings=page.rows, next_page_token=page.next_page_token)

    async def ManageRoles(self, request: pb.ManageRolesRequest, context: _Context) -> pb.ManageRolesResponse:
        """See the proto."""
        try:
            user = await self._users.GetUser(
                users_pb2.GetUserRequest(user_id=request.user_id), timeout=_time_for_users()
            )
        except grpc.aio.AioRpcError as error:
            _translate(error)
        call, principal = current_call(), current_principal()
        actor = Actor(principal.subject, principal.client_id, call.method.name, call.trace_id)
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        bindings = await self._repository.change(
            request.user_id,
            request.grant_roles,
            request.revoke_roles,
            actor,
            _left(),
            identity=Identity(user.issuer, user.subject),
            traceparent=carrier.get("traceparent", ""),
        )
        return pb.ManageRolesResponse(role_bindings=bindings)
