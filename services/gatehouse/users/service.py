"""RPCs of UserService; see protos/gatehouse/users/v1/users.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import protovalidate
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from gatehouse.domain import InvalidArgument, NotFound, Unavailable
from gatehouse.rpc import current_call, current_principal
from gatehouse.storage import Actor, Notifications
from gatehouse.users.repository import IMPORT_BATCH, MUTABLE, Position, UserRepository
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc

MAX_IMPORT_ERRORS = 1000
WATCH_BATCH = 500
WATCH_POLL_SECONDS = 1.0
_Context = grpc.aio.ServicerContext[Any, Any]


def _actor() -> Actor:
    call, principal = current_call(), current_principal()
    return Actor(principal.subject, principal.client_id, call.method.name, call.trace_id)


def _left() -> float | None:
    return current_call().deadline_seconds()


class UserService(users_pb2_grpc.UserServiceServicer):
    """The directory of users.

    Args:
        repository: Keeps them.
        notifications: Wakes watchers when something has changed.
    """

    def __init__(self, repository: UserRepository, notifications: Notifications) -> None:
        self._users = repository
        self._notifications = notifications
        self._validator = protovalidate.Validator()

    async def GetUser(self, request: pb.GetUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        return await self._users.get(request.user_id, _left())

    async def ListUsers(self, request: pb.ListUsersRequest, context: _Context) -> pb.ListUsersResponse:
        """See the proto."""
        page = await self._users.list(
            request.filter, request.order_by, request.page_token, request.page_size, _left()
        )
        return pb.ListUsersResponse(users=page.rows, next_page_token=page.next_page_token)

    async def CountUsers(self, request: pb.CountUsersRequest, context: _Context) -> pb.CountUsersResponse:
        """See the proto."""
        counts, moment = await self._users.count(_left())
        response = pb.CountUsersResponse(
            total_count=sum(counts.values()),
            active_count=counts.get(pb.USER_STATE_ACTIVE, 0),
            suspended_count=counts.get(pb.USER_STATE_SUSPENDED, 0),
        )
        response.snapshot_time.FromDatetime(moment)
        return response

    async def CreateUser(self, request: pb.CreateUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        return await self._users.create(request.user, request.request_id, _actor(), _left())

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        return await self._users.update(request.user, paths_of(request), _actor(), _left())

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: _Context) -> empty_pb2.Empty:
        """See the proto."""
        await self._users.delete(
            request.user_id, request.etag, _actor(), allow_missing=request.allow_missing, deadline=_left()
        )
        return empty_pb2.Empty()

    async def GetCurrentUser(self, request: pb.GetCurrentUserRequest, context: _Context) -> pb.User:
        """See the proto."""
        principal = current_principal()
        claims = principal.claims
        email = claims.get("email") if claims.get("email_verified") is True else None
        if not isinstance(email, str) or self._validator.collect_violations(pb.User(email=email)):
            email = ""
        names = map(_shown, (claims.get("name"), claims.get("preferred_username")))
        name = next(filter(None, names), principal.subject)
        return await self._users.current(
            principal.issuer, principal.subject, email, name[:200], _actor(), _left()
        )

    async def LookupUsers(
        self,
        request_iterator: AsyncIterator[pb.LookupUsersRequest],
        context: _Context,
    ) -> AsyncIterator[pb.LookupUsersResponse]:
        """See the proto."""
        async for request in request_iterator:
            response = pb.LookupUsersResponse(user_id=request.user_id)
            try:
                response.user.CopyFrom(await self._users.get(request.user_id, _left()))
            except NotFound as error:
                response.error.code = code_pb2.NOT_FOUND
                response.error.message = error.message
            yield response

    async def ImportUsers(
        self,
        request_iterator: AsyncIterator[pb.ImportUsersRequest],
        context: _Context,
    ) -> pb.ImportUsersResponse:
        """See the proto."""
        response = pb.ImportUsersResponse()
        batch: dict[str, pb.ImportUsersRequest] = {}
        async for row in request_iterator:
            response.row_count += 1
            fault = self._fault_of(row)
            if fault:
                _fail(response, row, code_pb2.INVALID_ARGUMENT, fault)
            elif row.email.lower() in batch:
                _fail(response, row, code_pb2.ALREADY_EXISTS, "another row has this email")
            else:
                batch[row.email.lower()] = row
            if len(batch) >= IMPORT_BATCH:
                await self._import(batch, response)
                batch = {}
        await self._import(batch, response)
        return response

    async def _import(
        self, batch: dict[str, pb.ImportUsersRequest], response: pb.ImportUsersResponse
    ) -> None:
        if not batch:
            return
        rows = [(row.email, row.display_name) for row in batch.values()]
        made = await self._users.insert_many(rows, _actor(), _left())
        response.created_count += len(made)
        for email, row in batch.items():
            if email not in made:
                _fail(response, row, code_pb2.ALREADY_EXISTS, "another user has this email")

    def _fault_of(self, row: pb.ImportUsersRequest) -> str:
        """Says which field of a row is wrong, "" when none is; the rules are those of User."""
        if not row.email:
            return "email is required"
        if not row.display_name:
            return "display_name is required"
        violations = self._validator.collect_violations(
            pb.User(email=row.email, display_name=row.display_name)
        )
        for violation in violations:
            field = violation.proto.field
            name = field.elements[0].field_name if field is not None and field.elements else "row"
            return f"{name} {violation.proto.message or 'is not valid'}"
        return ""

    async def WatchUsers(
        self,
        request: pb.WatchUsersRequest,
        context: _Context,
    ) -> AsyncIterator[pb.WatchUsersResponse]:
        """See the proto."""
        if request.resume_token:
            position = read_resume_token(request.resume_token)
        else:
            position = await self._users.horizon(_left())
        yield pb.WatchUsersResponse(resume_token=write_resume_token(position))
        draining = current_call().draining
        while not draining.is_set():
            changes = await self._users.changes_after(position, WATCH_BATCH)
            for position, kind, user in changes:
                yield pb.WatchUsersResponse(change=kind, user=user, resume_token=write_resume_token(position))
            if len(changes) < WATCH_BATCH:
                await self._wait(draining)
        raise Unavailable("SERVER_DRAINING", "the server is stopping; resume the watch elsewhere")

    async def _wait(self, draining: asyncio.Event) -> None:
        """Waits for a notification, the poll interval, or the end of the server."""
        waits = {
            asyncio.ensure_future(self._notifications.wait(WATCH_POLL_SECONDS)),
            asyncio.ensure_future(draining.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def paths_of(request: pb.UpdateUserRequest) -> list[str]:
    """Returns the fields that an update writes (AIP-134, AIP-161).

    Raises:
        InvalidArgument: The mask names a field that is not there or not to be written, or a value is missing.
    """
    user = request.user
    paths = list(dict.fromkeys(request.update_mask.paths))
    if not paths:
        paths = [name for name in MUTABLE if getattr(user, name)]
    elif paths == ["*"]:
        paths = list(MUTABLE)
    for path in paths:
        if path not in MUTABLE:
            raise InvalidArgument(
                "update_mask",
                "FIELD_NOT_MUTABLE",
                "fields that can be written are email, display_name, state",
            )
        if not getattr(user, path):
            raise InvalidArgument(f"user.{path}", "FIELD_REQUIRED", f"{path} is required")
    return paths


def _shown(claim: object) -> str:
    """Returns a claim as a name to show, "" when it is none; a control character has no place in one."""
    return "".join(filter(str.isprintable, claim)).strip() if isinstance(claim, str) else ""


def write_resume_token(position: Position) -> str:
    """Writes a position of the change feed."""
    return f"{position[0]:x}.{position[1]:x}"


def read_resume_token(token: str) -> Position:
    """Reads a position of the change feed.

    Raises:
        InvalidArgument: It is none.
    """
    try:
        xid, position = (int(part, 16) for part in token.split("."))
        if not (0 <= xid < 2**63 and 0 <= position < 2**63):
            raise ValueError
    except ValueError:
        raise InvalidArgument(
            "resume_token", "RESUME_TOKEN_MALFORMED", "the resume token is none that this server made"
        ) from None
    return xid, position


def _fail(response: pb.ImportUsersResponse, row: pb.ImportUsersRequest, code: int, message: str) -> None:
    response.failed_count += 1
    if len(response.errors) < MAX_IMPORT_ERRORS:
        error = response.errors.add(row_number=row.row_number)
        error.status.code = code
        error.status.message = message
