"""WatchUsers and the change feed behind it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf import field_mask_pb2
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.domain import InvalidArgument
from gatehouse.users.change_feed import Position
from gatehouse.users.v1 import users_pb2 as pb
from tests.support.eventually import eventually
from tests.support.services import Services, run_sql

CREATED, UPDATED, DELETED = pb.USER_CHANGE_CREATED, pb.USER_CHANGE_UPDATED, pb.USER_CHANGE_DELETED
MAX = 2**63 - 1


async def watch(services: Services, resume_token: str = "") -> tuple[Any, str]:
    """Start a watch; return the call and the resume token of its first message."""
    call: Any = services.users.WatchUsers(pb.WatchUsersRequest(resume_token=resume_token))
    first = await call.read()
    assert (first.change, first.HasField("user")) == (pb.USER_CHANGE_UNSPECIFIED, False)
    return call, first.resume_token


@given(st.integers(0, MAX), st.integers(0, MAX))
def test_resume_token_is_read_as_written(xid: int, position: int) -> None:
    assert Position.parse(Position(xid, position).resume_token) == (xid, position)


@given(st.text(max_size=80))
def test_any_other_text_is_parsed_or_rejected(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert Position.parse(text) >= (0, 0)


@pytest.mark.parametrize("token", ["x", "1", "1.2.3", "-1.2", "1.fffffffffffffffff"])
def test_invalid_resume_token_is_rejected(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Position.parse(token)
    assert caught.value.field == "resume_token"


async def test_watch_with_an_invalid_resume_token_fails(services: Services) -> None:
    call = services.users.WatchUsers(pb.WatchUsersRequest(resume_token="x"))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_resumed_watch_neither_loses_nor_repeats_a_change(services: Services) -> None:
    call, _ = await watch(services)
    users = [await services.create_user() for _ in range(3)]
    first = await call.read()
    call.cancel()
    await services.users.DeleteUser(pb.DeleteUserRequest(user_id=users[0].user_id))
    call, _ = await watch(services, first.resume_token)
    async with asyncio.timeout(10):
        responses = [first, *[await call.read() for _ in range(3)]]
    call.cancel()
    seen = [(response.change, response.user.user_id) for response in responses]
    assert seen == [*((CREATED, user.user_id) for user in users), (DELETED, users[0].user_id)]


async def test_watch_waits_for_a_transaction_that_commits_late(
    services: Services, database_urls: dict[str, str]
) -> None:
    """A reader that followed positions alone would skip the late change."""
    call, _ = await watch(services)
    late = pb.User(user_id=str(uuid.uuid4()))
    async with await psycopg.AsyncConnection.connect(database_urls["users"]) as connection:
        await connection.execute(
            "INSERT INTO users.user_changes (xid, kind, message, change_time) "
            "VALUES (pg_current_xact_id()::text::bigint, 2, %s, now())",
            [late.SerializeToString()],
        )
        early = await services.create_user()
        await connection.commit()
    async with asyncio.timeout(10):
        seen = [(await call.read()).user.user_id for _ in range(2)]
    call.cancel()
    assert seen == [late.user_id, early.user_id]


async def test_watch_from_before_the_feed_is_out_of_range(
    services: Services, database_urls: dict[str, str]
) -> None:
    call, token = await watch(services)
    call.cancel()
    await services.create_user()
    await run_sql(
        database_urls["owner"], "UPDATE users.user_changes SET change_time = now() - interval '30 days'"
    )
    assert await services.feed.prune() > 0
    call, _ = await watch(services, token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_watch_ends_when_its_server_shuts_down(services: Services) -> None:
    call, _ = await watch(services)
    async with asyncio.timeout(5):
        await services.users_server.stop(drain_seconds=30)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_pruning_deletes_all_old_rows_and_never_lowers_the_pruned_position(
    services: Services, database_urls: dict[str, str]
) -> None:
    owner = database_urls["owner"]
    await run_sql(
        owner,
        "INSERT INTO users.user_changes (xid, kind, message, change_time)"
        " SELECT 3, 1, '', now() - interval '30 days' FROM generate_series(1, 11000)",
    )
    await run_sql(owner, "UPDATE users.change_feed SET pruned_xid = 4, pruned_position = 5")
    assert sum(await asyncio.gather(services.feed.prune(), services.feed.prune())) == 11000
    pruned = await run_sql(owner, "SELECT pruned_xid, pruned_position FROM users.change_feed")
    assert pruned == [(4, 5)]
    await run_sql(owner, "UPDATE users.change_feed SET pruned_xid = 0, pruned_position = 0")
    assert await services.feed.prune() == 0


class Watcher:
    """Watches users and reconnects with the last resume token again and again."""

    def __init__(self, services: Services, seed: int) -> None:
        self._services = services
        self._random = random.Random(seed)
        self.seen: list[tuple[int, str, str]] = []
        self.started = asyncio.Event()

    async def run(self) -> None:
        token = ""
        while True:
            call, token = await watch(self._services, token)
            self.started.set()
            for _ in range(self._random.randint(0, 7)):
                response = await call.read()
                token = response.resume_token
                self.seen.append((response.change, response.user.user_id, response.user.display_name))
            call.cancel()


@pytest.mark.parametrize("seed", [1, 2])
async def test_reconnecting_watchers_see_every_change_once_and_in_order(
    services: Services, seed: int
) -> None:
    watchers = [Watcher(services, seed * 10 + number) for number in range(3)]
    tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
    await asyncio.gather(*(watcher.started.wait() for watcher in watchers))
    written: list[tuple[int, str, str]] = []

    async def write(number: int) -> None:
        source = random.Random(seed * 100 + number)
        user = await services.create_user(display_name="0")
        written.append((CREATED, user.user_id, "0"))
        for step in range(1, source.randint(3, 9)):
            change = pb.User(user_id=user.user_id, display_name=str(step))
            mask = field_mask_pb2.FieldMask(paths=["display_name"])
            await services.users.UpdateUser(pb.UpdateUserRequest(user=change, update_mask=mask))
            written.append((UPDATED, user.user_id, str(step)))
        if source.random() < 0.5:
            await services.users.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))
            written.append((DELETED, user.user_id, ""))

    await asyncio.gather(*map(write, range(8)))

    def all_seen() -> bool:
        assert not any(task.done() for task in tasks)
        return all(len(watcher.seen) >= len(written) for watcher in watchers)

    await eventually(all_seen, 60)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for watcher in watchers:
        assert sorted(watcher.seen) == sorted(written)
        assert watcher.seen == watchers[0].seen
        for user_id in {user_id for _, user_id, _ in written}:
            assert [c for c in watcher.seen if c[1] == user_id] == [c for c in written if c[1] == user_id]
