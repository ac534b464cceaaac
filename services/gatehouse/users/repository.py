"""SQL of UserService."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.domain import Aborted, AlreadyExists, InvalidArgument, NotFound, OutOfRange
from gatehouse.storage import (
    Actor,
    Database,
    DirectSelect,
    Page,
    append_audit,
    new_id,
    page_size,
    read_page_token,
    write_page_token,
)
from gatehouse.users.filter import parse_filter
from gatehouse.users.tables import CHANNEL, audit_events, change_feed, requests, user_changes, users
from gatehouse.users.v1 import users_pb2 as pb

CREATED, UPDATED, DELETED = pb.USER_CHANGE_CREATED, pb.USER_CHANGE_UPDATED, pb.USER_CHANGE_DELETED
MUTABLE = ("email", "display_name", "state")
IMPORT_BATCH = 500
PRUNE_BATCH = 5_000
REQUEST_LIFE = timedelta(hours=24)
FEED_LIFE = timedelta(days=7)
Position = tuple[int, int]

_GET = DirectSelect(sa.select(users).where(users.c.user_id == sa.bindparam("user_id")))
_ORDERS = {"create_time": users.c.create_time, "email": users.c.email, "display_name": users.c.display_name}
# The horizon: every transaction below it has ended, so nothing can appear there any more.
_HORIZON = sa.cast(sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger)
_THIS_XID = sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)


def to_message(row: Any) -> pb.User:
    """Makes the message of a row."""
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
    return NotFound("USER_NOT_FOUND", "there is no such user")


def _taken() -> AlreadyExists:
    return AlreadyExists("EMAIL_TAKEN", "another user has this email")


class UserRepository:
    """Reads and writes users, each change with its audit row and its row of the change feed.

    Args:
        database: Of the login role of UserService.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    async def get(self, user_id: str, deadline: float | None = None) -> pb.User:
        """Returns one user.

        Raises:
            NotFound: There is none.
        """
        row = await _GET.first(self._database, {"user_id": uuid.UUID(user_id)}, deadline)
        if row is None:
            raise _not_found()
        return to_message(row)

    async def list(
        self, filter_text: str, order_by: str, token: str, size: int, deadline: float | None = None
    ) -> Page[pb.User]:
        """Returns one page.

        Raises:
            InvalidArgument: Filter, order or token cannot be used.
        """
        name, _, direction = " ".join(order_by.split()).partition(" ")
        name = name or "create_time"
        if name not in _ORDERS or direction not in {"", "asc", "desc"}:
            raise InvalidArgument(
                "order_by",
                "ORDER_BY_INVALID",
                "order by create_time, email or display_name, with desc or without",
            )
        descending = direction == "desc"
        column: sa.Column[Any] = _ORDERS[name]
        timed = name == "create_time"
        query = f"{filter_text}\n{name} {direction}"
        after = read_page_token(query, token, (int if timed else str, str))
        statement = sa.select(users).where(*parse_filter(filter_text))
        if after is not None:
            try:
                last = (_from_microseconds(int(after[0])) if timed else after[0], uuid.UUID(str(after[1])))
            except (ValueError, OverflowError):
                raise InvalidArgument(
                    "page_token", "PAGE_TOKEN_MALFORMED", "the page token is none that this server made"
                ) from None
            keyset = sa.tuple_(column, users.c.user_id)
            edge = sa.tuple_(sa.literal(last[0], column.type), sa.literal(last[1], users.c.user_id.type))
            statement = statement.where(keyset < edge if descending else keyset > edge)
        order = (column.desc(), users.c.user_id.desc()) if descending else (column, users.c.user_id)
        limit = page_size(size)
        async with self._database.read(deadline) as connection:
            rows = (await connection.execute(statement.order_by(*order).limit(limit + 1))).all()
        next_token = ""
        if len(rows) > limit:
            edge_row = rows[limit - 1]
            value = getattr(edge_row, name)
            next_token = write_page_token(
                query, (_to_microseconds(value) if timed else value, str(edge_row.user_id))
            )
        return Page([to_message(row) for row in rows[:limit]], next_token)

    async def count(self, deadline: float | None = None) -> tuple[Mapping[int, int], datetime]:
        """Returns the number of users by state, and the moment it was true."""
        async with self._database.snapshot(deadline) as connection:
            rows = await connection.execute(sa.select(users.c.state, sa.func.count()).group_by(users.c.state))
            counts = {state: count for state, count in rows}  # noqa: C416 - rows are not pairs to dict()
            moment = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        return counts, moment

    async def create(
        self, user: pb.User, request_id: str, actor: Actor, deadline: float | None = None
    ) -> pb.User:
        """Makes a user; a request id that was seen before gives the first answer again (AIP-155).

        Raises:
            AlreadyExists: The email is taken.
            InvalidArgument: The request id was used for another request.
        """
        fingerprint = hashlib.sha256(
            pb.User(email=user.email, display_name=user.display_name, state=user.state).SerializeToString(
                deterministic=True
            )
        ).digest()
        async with self._database.write(deadline) as connection:
            if request_id:
                # Two of the same at once: the second waits here for the end of the first.
                key = f"{actor.subject}\n{uuid.UUID(request_id)}"
                await connection.execute(
                    sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0)))
                )
                earlier = await self._earlier(connection, actor.subject, request_id, fingerprint)
                if earlier is not None:
                    return earlier
            now = self._now()
            row = (
                await connection.execute(
                    insert(users)
                    .values(
                        user_id=new_id(self._clock),
                        email=user.email,
                        display_name=user.display_name,
                        state=user.state or pb.USER_STATE_ACTIVE,
                        create_time=now,
                        update_time=now,
                        version=1,
                    )
                    .on_conflict_do_nothing()
                    .returning(users)
                )
            ).one_or_none()
            if row is None:
                raise _taken()
            made = to_message(row)
            if request_id:
                await connection.execute(
                    requests.insert().values(
                        subject=actor.subject,
                        request_id=uuid.UUID(request_id),
                        fingerprint=fingerprint,
                        response=made.SerializeToString(),
                        create_time=now,
                    )
                )
            await self._record(connection, actor, "user.created", CREATED, [made])
        return made

    async def _earlier(
        self, connection: AsyncConnection, subject: str, request_id: str, fingerprint: bytes
    ) -> pb.User | None:
        row = (
            await connection.execute(
                sa.select(requests).where(
                    requests.c.subject == subject, requests.c.request_id == uuid.UUID(request_id)
                )
            )
        ).one_or_none()
        if row is None:
            return None
        if bytes(row.fingerprint) != fingerprint:
            raise InvalidArgument("request_id", "REQUEST_ID_REUSED", "this id was used for another request")
        return pb.User.FromString(bytes(row.response))

    async def update(
        self, user: pb.User, paths: Sequence[str], actor: Actor, deadline: float | None = None
    ) -> pb.User:
        """Writes the fields that `paths` name.

        Raises:
            NotFound: There is no such user.
            Aborted: The etag is not the stored one.
            AlreadyExists: The email is taken.
        """
        user_id = uuid.UUID(user.user_id)
        values: dict[str, Any] = {path: getattr(user, path) for path in paths}
        async with self._database.write(deadline) as connection:
            row = (
                await connection.execute(sa.select(users).where(users.c.user_id == user_id).with_for_update())
            ).one_or_none()
            if row is None:
                raise _not_found()
            if user.etag and user.etag != str(row.version):
                raise Aborted("ETAG_MISMATCH", "the user has changed; read it again")
            changed = {k: v for k, v in values.items() if getattr(row, k) != v}
            if not changed:
                return to_message(row)
            if "email" in changed:
                other = sa.select(users.c.user_id).where(
                    sa.func.lower(users.c.email) == sa.func.lower(changed["email"]),
                    users.c.user_id != user_id,
                )
                if (await connection.execute(other)).first() is not None:
                    raise _taken()
            try:
                row = (
                    await connection.execute(
                        users.update()
                        .where(users.c.user_id == user_id)
                        .values(**changed, update_time=self._now(), version=users.c.version + 1)
                        .returning(users)
                    )
                ).one()
            except sa.exc.IntegrityError:
                raise _taken() from None
            made = to_message(row)
            await self._record(connection, actor, "user.updated", UPDATED, [made])
        return made

    async def delete(
        self, user_id: str, etag: str, actor: Actor, *, allow_missing: bool, deadline: float | None = None
    ) -> None:
        """Deletes a user.

        Raises:
            NotFound: There is none, and that is not allowed.
            Aborted: The etag is not the stored one.
        """
        key = uuid.UUID(user_id)
        async with self._database.write(deadline) as connection:
            row = (
                await connection.execute(sa.select(users).where(users.c.user_id == key).with_for_update())
            ).one_or_none()
            if row is None:
                if allow_missing:
                    return
                raise _not_found()
            if etag and etag != str(row.version):
                raise Aborted("ETAG_MISMATCH", "the user has changed; read it again")
            await connection.execute(users.delete().where(users.c.user_id == key))
            await self._record(connection, actor, "user.deleted", DELETED, [pb.User(user_id=str(key))])

    async def current(
        self,
        issuer: str,
        subject: str,
        email: str,
        display_name: str,
        actor: Actor,
        deadline: float | None = None,
    ) -> pb.User:
        """Returns the record of an identity, made when it is first seen.

        An address that another record has is not taken over: whoever can choose an email at the issuer
        would gain that record.
        """
        query = sa.select(users).where(users.c.issuer == issuer, users.c.subject == subject)
        async with self._database.read(deadline) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is not None:
            return to_message(row)
        async with self._database.write(deadline) as connection:
            now = self._now()
            key = new_id(self._clock)
            for address in (email, f"{key}@users.invalid"):
                if not address:
                    continue
                row = (
                    await connection.execute(
                        insert(users)
                        .values(
                            user_id=key,
                            email=address,
                            display_name=display_name,
                            state=pb.USER_STATE_ACTIVE,
                            issuer=issuer,
                            subject=subject,
                            create_time=now,
                            update_time=now,
                            version=1,
                        )
                        .on_conflict_do_nothing()
                        .returning(users)
                    )
                ).one_or_none()
                if row is not None:
                    made = to_message(row)
                    await self._record(connection, actor, "user.created", CREATED, [made])
                    return made
                # Either the address is taken, or another call made the record just now.
                row = (await connection.execute(query)).one_or_none()
                if row is not None:
                    return to_message(row)
        raise _taken()

    async def insert_many(
        self, rows: Sequence[tuple[str, str]], actor: Actor, deadline: float | None = None
    ) -> set[str]:
        """Makes users of (email, display name), all or those whose email is free.

        Returns:
            The emails, in lower case, of the users that were made.
        """
        now = self._now()
        values = [
            {
                "user_id": new_id(self._clock),
                "email": email,
                "display_name": name,
                "state": pb.USER_STATE_ACTIVE,
                "create_time": now,
                "update_time": now,
                "version": 1,
            }
            for email, name in rows
        ]
        # In one order everywhere: two imports of the same rows wait for each other and do not lock up.
        values.sort(key=lambda value: str(value["email"]).lower())
        async with self._database.write(deadline) as connection:
            statement = insert(users).values(values).on_conflict_do_nothing().returning(users)
            made = [to_message(row) for row in await connection.execute(statement)]
            await self._record(connection, actor, "user.created", CREATED, made)
        return {user.email.lower() for user in made}

    async def changes_after(
        self, position: Position, limit: int, deadline: float | None = None
    ) -> Sequence[tuple[Position, pb.UserChange.ValueType, pb.User]]:
        """Returns the changes after `position`, in order.

        Raises:
            OutOfRange: The feed no longer reaches back that far.
        """
        table = user_changes
        async with self._database.read(deadline) as connection:
            rows = (
                await connection.execute(
                    sa.select(table)
                    .where(
                        sa.tuple_(table.c.xid, table.c.position) > sa.tuple_(*map(sa.literal, position)),
                        table.c.xid < _HORIZON,
                    )
                    .order_by(table.c.xid, table.c.position)
                    .limit(limit)
                )
            ).all()
            # After the rows: what was pruned before they were read shows here.
            floor = (await connection.execute(sa.select(change_feed))).one()
        if position < (floor.pruned_xid, floor.pruned_position):
            raise OutOfRange("RESUME_TOKEN_TOO_OLD", "the change feed no longer reaches back that far")
        return [((r.xid, r.position), r.kind, pb.User.FromString(bytes(r.message))) for r in rows]

    async def horizon(self, deadline: float | None = None) -> Position:
        """Returns the position after everything that is there now."""
        async with self._database.read(deadline) as connection:
            xid = (await connection.execute(sa.select(_HORIZON))).scalar_one()
        return (int(xid) - 1, 2**63 - 1)

    async def prune(self) -> int:
        """Removes what is older than the feed and remembered requests go back; returns how many changes."""
        now = self._now()
        async with self._database.write() as connection:
            await connection.execute(requests.delete().where(requests.c.create_time < now - REQUEST_LIFE))
        count, gone = 0, PRUNE_BATCH
        while gone == PRUNE_BATCH:
            gone = await self._prune_changes(now - FEED_LIFE)
            count += gone
        return count

    async def _prune_changes(self, before: datetime) -> int:
        table, floor = user_changes, change_feed
        old = (
            sa.select(table.c.xid, table.c.position)
            .where(table.c.change_time < before)
            .order_by(table.c.xid, table.c.position)
            .limit(PRUNE_BATCH)
        )
        async with self._database.write() as connection:
            # One at a time, so that the floor only rises.
            await connection.execute(sa.select(floor).with_for_update())
            gone = (
                await connection.execute(
                    table.delete()
                    .where(sa.tuple_(table.c.xid, table.c.position).in_(old))
                    .returning(table.c.xid, table.c.position)
                )
            ).all()
            if gone:
                xid, position = max((row.xid, row.position) for row in gone)
                await connection.execute(
                    floor.update()
                    .where(
                        sa.tuple_(floor.c.pruned_xid, floor.c.pruned_position)
                        < sa.tuple_(sa.literal(xid), sa.literal(position))
                    )
                    .values(pruned_xid=xid, pruned_position=position)
                )
        return len(gone)

    async def _record(
        self, connection: AsyncConnection, actor: Actor, action: str, kind: int, changed: Sequence[pb.User]
    ) -> None:
        if not changed:
            return
        now = self._now()
        await connection.execute(
            user_changes.insert().values(
                xid=_THIS_XID,
                kind=kind,
                message=sa.bindparam("changed_message"),
                change_time=now,
            ),
            [{"changed_message": user.SerializeToString()} for user in changed],
        )
        await append_audit(
            connection, audit_events, actor, [(action, f"users/{u.user_id}") for u in changed], self._clock
        )
        await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


def _to_microseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _from_microseconds(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
