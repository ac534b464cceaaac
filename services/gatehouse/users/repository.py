"""SQL of UserService."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.domain import Aborted, AlreadyExists, InvalidArgument, NotFound
from gatehouse.storage import (
    Caller,
    Database,
    DirectSelect,
    Page,
    PageRequest,
    append_audit,
    fetch_page,
    new_id,
)
from gatehouse.storage.standbys import HORIZON, StandbyReads, WriteToken
from gatehouse.users.change_feed import append_changes
from gatehouse.users.filter import parse_filter
from gatehouse.users.idempotency import RETENTION, IdempotentRequest, find_response, save_response
from gatehouse.users.tables import audit_events, requests, users
from gatehouse.users.v1 import users_pb2 as pb

_BY_ID = users.c.user_id == sa.bindparam("user_id")
_GET = DirectSelect(sa.select(users).where(_BY_ID))
_GET_FROM_STANDBY = DirectSelect(sa.select(users, HORIZON).where(_BY_ID))
_SORTABLE = {column.name: column for column in (users.c.create_time, users.c.email, users.c.display_name)}
_ACTIONS = {
    pb.USER_CHANGE_CREATED: "user.created",
    pb.USER_CHANGE_UPDATED: "user.updated",
    pb.USER_CHANGE_DELETED: "user.deleted",
}


def parse_order(order_by: str) -> tuple[str, str]:
    """Return the column of an order (AIP-132) and its direction: "", "asc" or "desc".

    Raises:
        InvalidArgument: The order is invalid.
    """
    name, _, direction = " ".join(order_by.split()).partition(" ")
    name = name or "create_time"
    if name not in _SORTABLE or direction not in {"", "asc", "desc"}:
        raise InvalidArgument(
            "order_by",
            "ORDER_BY_INVALID",
            "order_by: use create_time, email or display_name, optionally followed by desc",
        )
    return name, direction


class UserRepository:
    """Read and write users; every change also adds an audit event and an entry of the change feed.

    `timeout` is in seconds, None for the default of Database; `caller` is the caller for the audit trail.

    Args:
        database: Connection pool of the login role of UserService.
        clock: Seconds since the epoch.
        standbys: Makes reads at standbys; None if there are none.
    """

    def __init__(
        self, database: Database, clock: Callable[[], float], standbys: StandbyReads | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._standbys = standbys

    async def get(
        self, user_id: str, timeout: float | None = None, token: WriteToken | None = None
    ) -> pb.User:
        """Return a user.

        Args:
            user_id: Its id.
            timeout: See the class.
            token: What the caller has written, if a standby may answer; None to read from the primary.

        Raises:
            NotFound: The user does not exist.
        """
        parameters = {"user_id": uuid.UUID(user_id)}
        row = None
        if self._standbys is not None and token is not None:

            async def from_standby(database: Database, check: Callable[[Any], Any]) -> Any:
                found = await _GET_FROM_STANDBY.first(database, parameters, timeout)
                return None if found is None else check(found)

            row = await self._standbys.answer(token, from_standby)
        if row is None:
            row = await _GET.first(self._database, parameters, timeout)
        if row is None:
            raise _not_found()
        return _to_user(row)

    async def list(
        self,
        filter_text: str,
        order_by: str,
        page: PageRequest,
        timeout: float | None = None,
        token: WriteToken | None = None,
    ) -> Page[pb.User]:
        """Return a page of users.

        Args:
            filter_text: Filter (AIP-160).
            order_by: Order (AIP-132).
            page: The page to return.
            timeout: See the class.
            token: See `get`.

        Raises:
            InvalidArgument: The filter or the order is invalid.
            PageTokenError: The page token is invalid.
        """
        name, direction = parse_order(order_by)
        conditions = parse_filter(filter_text)

        async def fetch(database: Database, convert: Callable[[Any], pb.User], *proof: Any) -> Page[pb.User]:
            return await fetch_page(
                database,
                sa.select(users, *proof).where(*conditions),
                (_SORTABLE[name], users.c.user_id),
                convert,
                page,
                query=f"{filter_text}\n{name} {direction}",
                descending=direction == "desc",
                timeout=timeout,
            )

        async def from_standby(database: Database, check: Callable[[Any], Any]) -> Page[pb.User] | None:
            found = await fetch(database, lambda row: _to_user(check(row)), HORIZON)
            return found if found.rows else None

        found = None
        if self._standbys is not None and token is not None:
            found = await self._standbys.answer(token, from_standby)
        return found or await fetch(self._database, _to_user)

    async def count(self, timeout: float | None = None) -> tuple[Mapping[int, int], datetime]:
        """Return the number of users by state, and the time at which they were counted."""
        async with self._database.snapshot(timeout) as connection:
            rows = await connection.execute(sa.select(users.c.state, sa.func.count()).group_by(users.c.state))
            counts: dict[int, int] = dict(rows.all())
            now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        return counts, now

    async def create(
        self, user: pb.User, request_id: str, caller: Caller, timeout: float | None = None
    ) -> pb.User:
        """Create a user; a request id that was used before returns the first response (AIP-155).

        Raises:
            AlreadyExists: Another user has the email.
            InvalidArgument: The request id was used for another request.
        """
        request = _idempotent_request(caller, request_id, user) if request_id else None
        async with self._database.write(timeout) as connection:
            response = await find_response(connection, request) if request else None
            if response is not None:
                return pb.User.FromString(response)
            row = self._new_row(user.email, user.display_name, state=user.state or pb.USER_STATE_ACTIVE)
            created = await self._insert(connection, caller, [row])
            if not created:
                raise _email_taken()
            if request:
                await save_response(connection, request, created[0].SerializeToString(), self._now())
            return created[0]

    async def create_many(
        self, rows: Sequence[tuple[str, str]], caller: Caller, timeout: float | None = None
    ) -> set[str]:
        """Create users from emails and display names, except those whose email another user has.

        Returns:
            The emails of the created users, in lower case.
        """
        # Concurrent imports insert in the same order, so that they wait for each other without a deadlock.
        ordered = sorted(rows, key=lambda row: row[0].lower())
        async with self._database.write(timeout) as connection:
            created = await self._insert(connection, caller, [self._new_row(*row) for row in ordered])
        return {user.email.lower() for user in created}

    async def get_or_create(
        self,
        issuer: str,
        subject: str,
        email: str,
        display_name: str,
        caller: Caller,
        timeout: float | None = None,
    ) -> pb.User:
        """Return the user with this identity; create it if it does not exist. `email` may be "".

        A user with the same email is not linked to the identity. Otherwise a caller who can choose an email
        at the issuer could take over that user.
        """
        query = sa.select(users).where(users.c.issuer == issuer, users.c.subject == subject)
        async with self._database.read(timeout) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is not None:
            return _to_user(row)
        new = self._new_row(email, display_name, issuer=issuer, subject=subject)
        placeholder = f"{new['user_id']}@users.invalid"
        async with self._database.write(timeout) as connection:
            for address in filter(None, (email, placeholder)):
                created = await self._insert(connection, caller, [{**new, "email": address}])
                if created:
                    return created[0]
                # Either the email is taken, or a concurrent call created this user.
                row = (await connection.execute(query)).one_or_none()
                if row is not None:
                    return _to_user(row)
        raise _email_taken()

    async def update(
        self, user: pb.User, paths: Sequence[str], caller: Caller, timeout: float | None = None
    ) -> pb.User:
        """Update the fields named in `paths`.

        Raises:
            NotFound: The user does not exist.
            Aborted: `user.etag` is set and is not the current one.
            AlreadyExists: Another user has the email.
        """
        user_id = uuid.UUID(user.user_id)
        async with self._database.write(timeout) as connection:
            row = await _lock(connection, user_id, user.etag)
            changed = {
                path: getattr(user, path) for path in paths if getattr(user, path) != getattr(row, path)
            }
            if not changed:
                return _to_user(row)
            if "email" in changed and await _is_taken(connection, changed["email"], user_id):
                raise _email_taken()
            statement = (
                users.update()
                .where(users.c.user_id == user_id)
                .values(**changed, update_time=self._now(), version=users.c.version + 1)
                .returning(users)
            )
            try:
                updated = _to_user((await connection.execute(statement)).one())
            except sa.exc.IntegrityError:
                raise _email_taken() from None
            await self._record(connection, caller, pb.USER_CHANGE_UPDATED, [updated])
        return updated

    async def delete(
        self, user_id: str, etag: str, caller: Caller, *, allow_missing: bool, timeout: float | None = None
    ) -> None:
        """Delete a user.

        Raises:
            NotFound: The user does not exist, and `allow_missing` is false.
            Aborted: `etag` is set and is not the current one.
        """
        key = uuid.UUID(user_id)
        async with self._database.write(timeout) as connection:
            try:
                await _lock(connection, key, etag)
            except NotFound:
                if allow_missing:
                    return
                raise
            await connection.execute(users.delete().where(users.c.user_id == key))
            await self._record(connection, caller, pb.USER_CHANGE_DELETED, [pb.User(user_id=str(key))])

    async def prune_request_ids(self) -> None:
        """Delete responses that were saved for repeated requests before RETENTION."""
        expired = requests.c.create_time < self._now() - RETENTION
        async with self._database.write() as connection:
            await connection.execute(requests.delete().where(expired))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _new_row(
        self,
        email: str,
        display_name: str,
        *,
        state: int = pb.USER_STATE_ACTIVE,
        issuer: str | None = None,
        subject: str | None = None,
    ) -> Mapping[str, object]:
        now = self._now()
        return {
            "user_id": new_id(self._clock),
            "email": email,
            "display_name": display_name,
            "state": state,
            "issuer": issuer,
            "subject": subject,
            "create_time": now,
            "update_time": now,
            "version": 1,
        }

    async def _insert(
        self, connection: AsyncConnection, caller: Caller, rows: Sequence[Mapping[str, object]]
    ) -> Sequence[pb.User]:
        """Insert rows, except those whose email or identity exists; return the users created."""
        statement = insert(users).values(rows).on_conflict_do_nothing().returning(users)
        created = [_to_user(row) for row in await connection.execute(statement)]
        await self._record(connection, caller, pb.USER_CHANGE_CREATED, created)
        return created

    async def _record(
        self,
        connection: AsyncConnection,
        caller: Caller,
        kind: pb.UserChange.ValueType,
        changed: Sequence[pb.User],
    ) -> None:
        """Add changed users to the change feed and to the audit trail."""
        if changed:
            await append_changes(connection, kind, changed, self._now())
            events = [(_ACTIONS[kind], f"users/{user.user_id}") for user in changed]
            await append_audit(connection, audit_events, caller, events, self._clock)


async def _lock(connection: AsyncConnection, user_id: uuid.UUID, etag: str) -> Any:
    """Lock the row of a user until the transaction ends, and return it.

    Raises:
        NotFound: The user does not exist.
        Aborted: `etag` is set and is not the current one.
    """
    query = sa.select(users).where(users.c.user_id == user_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _not_found()
    if etag and etag != str(row.version):
        raise Aborted("ETAG_MISMATCH", "etag: the user has changed; read it again and repeat the change")
    return row


async def _is_taken(connection: AsyncConnection, email: str, user_id: uuid.UUID) -> bool:
    """Return whether another user has the email.

    The unique index ensures this anyway, but PostgreSQL logs each violation of the index with the email.
    """
    query = sa.select(users.c.user_id).where(
        sa.func.lower(users.c.email) == sa.func.lower(email), users.c.user_id != user_id
    )
    return (await connection.execute(query)).first() is not None


def _idempotent_request(caller: Caller, request_id: str, user: pb.User) -> IdempotentRequest:
    relevant = pb.User(email=user.email, display_name=user.display_name, state=user.state)
    digest = hashlib.sha256(relevant.SerializeToString(deterministic=True)).digest()
    return IdempotentRequest(caller.issuer, caller.subject, uuid.UUID(request_id), digest)


def _to_user(row: Any) -> pb.User:
    user = pb.User(
        user_id=str(row.user_id),
        email=row.email,
        display_name=row.display_name,
        state=row.state,
        subject=row.subject or "",
        issuer=row.issuer or "",
        etag=str(row.version),
    )
    user.create_time.FromDatetime(row.create_time)
    user.update_time.FromDatetime(row.update_time)
    return user


def _not_found() -> NotFound:
    return NotFound("USER_NOT_FOUND", "user not found")


def _email_taken() -> AlreadyExists:
    return AlreadyExists("EMAIL_TAKEN", "another user has this email")
