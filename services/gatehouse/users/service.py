"""RPCs of UserService; see protos/gatehouse/users/v1/users.proto."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import protovalidate
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from gatehouse.domain import InvalidArgument, NotFound
from gatehouse.rpc import current_call, current_principal
from gatehouse.runtime.request import current_caller, remaining_seconds, requested_page, write_token
from gatehouse.users.change_feed import Position
from gatehouse.users.repository import UserRepository
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from gatehouse.users.watches import Watches

UPDATABLE_FIELDS = ("email", "display_name", "state")
IMPORT_BATCH = 500
MAX_IMPORT_ERRORS = 1000
_MAX_NAME_LENGTH = 200
_Context = grpc.aio.ServicerContext[Any, Any]


class UserService(users_pb2_grpc.UserServiceServicer):
    """The directory of users.

    Args:
        repository: Reads and writes users.
        watches: The changes that WatchUsers streams.
    """

    def __init__(self, repository: UserRepository, watches: Watches) -> None:
        self._users = repository
        self._watches = watches
        self._validator = protovalidate.Validator()

    async def GetUser(self, request: pb.GetUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        return await self._users.get(request.user_id, remaining_seconds(), write_token())

    async def ListUsers(self, request: pb.ListUsersRequest, context: _Context) -> pb.ListUsersResponse:
        """See the proto."""
        with requested_page(request.page_token, request.page_size) as page:
            found = await self._users.list(
                request.filter, request.order_by, page, remaining_seconds(), write_token()
            )
        return pb.ListUsersResponse(users=found.rows, next_page_token=found.next_page_token)

    async def CountUsers(self, request: pb.CountUsersRequest, context: _Context) -> pb.CountUsersResponse:
        """See the proto."""
        counts, snapshot_time = await self._users.count(remaining_seconds())
        response = pb.CountUsersResponse(
            total_count=sum(counts.values()),
            active_count=counts.get(pb.USER_STATE_ACTIVE, 0),
            suspended_count=counts.get(pb.USER_STATE_SUSPENDED, 0),
        )
        response.snapshot_time.FromDatetime(snapshot_time)
        return response

    async def CreateUser(self, request: pb.CreateUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        return await self._users.create(
            request.user, request.request_id, current_caller(), remaining_seconds()
        )

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        paths = updated_fields(request)
        return await self._users.update(request.user, paths, current_caller(), remaining_seconds())

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: _Context) -> empty_pb2.Empty:
        """See the proto."""
        await self._users.delete(
            request.user_id,
            request.etag,
            current_caller(),
            allow_missing=request.allow_missing,
            timeout=remaining_seconds(),
        )
        return empty_pb2.Empty()

    async def GetCurrentUser(self, request: pb.GetCurrentUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        principal = current_principal()
        claims = principal.claims
        email = claims.get("email") if claims.get("email_verified") is True else None
        if not isinstance(email, str) or self._validator.collect_violations(pb.User(email=email)):
            email = ""
        names = (_printable(claims.get("name")), _printable(claims.get("preferred_username")))
        name = next(filter(None, names), principal.subject)[:_MAX_NAME_LENGTH]
        return await self._users.get_or_create(
            principal.issuer, principal.subject, email, name, current_caller(), remaining_seconds()
        )

    async def LookupUsers(
        self, request_iterator: AsyncIterator[pb.LookupUsersRequest], context: _Context
    ) -> AsyncIterator[pb.LookupUsersResponse]:
        """See the proto."""
        async for request in request_iterator:
            response = pb.LookupUsersResponse(user_id=request.user_id)
            try:
                response.user.CopyFrom(await self._users.get(request.user_id, remaining_seconds()))
            except NotFound as error:
                response.error.code = code_pb2.NOT_FOUND
                response.error.message = error.message
            yield response

    async def ImportUsers(
        self, request_iterator: AsyncIterator[pb.ImportUsersRequest], context: _Context
    ) -> pb.ImportUsersResponse:
        """See the proto."""
        response = pb.ImportUsersResponse()
        batch: dict[str, pb.ImportUsersRequest] = {}
        async for row in request_iterator:
            response.row_count += 1
            error = self._row_error(row)
            if error:
                _add_import_error(response, row, code_pb2.INVALID_ARGUMENT, error)
            elif row.email.lower() in batch:
                _add_import_error(response, row, code_pb2.ALREADY_EXISTS, "another row has this email")
            else:
                batch[row.email.lower()] = row
            if len(batch) >= IMPORT_BATCH:
                await self._import(batch, response)
                batch = {}
        if batch:
            await self._import(batch, response)
        return response

    async def _import(
        self, batch: dict[str, pb.ImportUsersRequest], response: pb.ImportUsersResponse
    ) -> None:
        rows = [(row.email, row.display_name) for row in batch.values()]
        created = await self._users.create_many(rows, current_caller(), remaining_seconds())
        response.created_count += len(created)
        for email, row in batch.items():
            if email not in created:
                _add_import_error(response, row, code_pb2.ALREADY_EXISTS, "another user has this email")

    def _row_error(self, row: pb.ImportUsersRequest) -> str:
        """Return what is wrong with a row by the constraints of User, or "" if it is valid."""
        if not row.email:
            return "email is required"
        if not row.display_name:
            return "display_name is required"
        user = pb.User(email=row.email, display_name=row.display_name)
        for violation in self._validator.collect_violations(user):
            field = violation.proto.field
            name = field.elements[0].field_name if field is not None and field.elements else "row"
            return f"{name} {violation.proto.message or 'is invalid'}"
        return ""

    async def WatchUsers(
        self, request: pb.WatchUsersRequest, context: _Context
    ) -> AsyncIterator[pb.WatchUsersResponse]:
        """See the proto."""
        after = Position.parse(request.resume_token) if request.resume_token else None
        async with aclosing(self._watches.follow(after, current_call().draining)) as responses:
            async for response in responses:
                yield response


def updated_fields(request: pb.UpdateUserRequest) -> Sequence[str]:
    """Return the names of the fields that a request updates (AIP-134, AIP-161).

    Raises:
        InvalidArgument: The mask names a field that cannot be updated, or a field has no value.
    """
    user = request.user
    paths: Sequence[str] = list(dict.fromkeys(request.update_mask.paths))
    if not paths:
        return [name for name in UPDATABLE_FIELDS if getattr(user, name)]
    if paths == ["*"]:
        paths = UPDATABLE_FIELDS
    for path in paths:
        if path not in UPDATABLE_FIELDS:
            raise InvalidArgument(
                "update_mask",
                "FIELD_NOT_MUTABLE",
                f"update_mask: use only {', '.join(UPDATABLE_FIELDS)}, or *",
            )
        if not getattr(user, path):
            raise InvalidArgument(f"user.{path}", "FIELD_REQUIRED", f"user.{path}: required by update_mask")
    return paths


def _printable(claim: object) -> str:
    """Return a claim without control characters, or "" if it is not a string."""
    return "".join(filter(str.isprintable, claim)).strip() if isinstance(claim, str) else ""


def _add_import_error(
    response: pb.ImportUsersResponse, row: pb.ImportUsersRequest, code: int, message: str
) -> None:
    response.failed_count += 1
    if len(response.errors) < MAX_IMPORT_ERRORS:
        error = response.errors.add(row_number=row.row_number)
        error.status.code = code
        error.status.message = message
