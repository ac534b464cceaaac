"""Several who write at once, answers that get lost, and a feed that tells of all of it once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import uuid
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import code_pb2

from gatehouse.users.v1 import users_pb2 as pb
from tests.support.rpc import principal
from tests.support.services import Services

CREATED, UPDATED, DELETED = pb.USER_CHANGE_CREATED, pb.USER_CHANGE_UPDATED, pb.USER_CHANGE_DELETED
NAME = field_mask_pb2.FieldMask(paths=["display_name"])


def email() -> str:
    return f"{uuid.uuid4().hex}@example.test"


async def make(services: Services, name: str = "0") -> pb.User:
    user = pb.User(email=email(), display_name=name)
    return await services.users.CreateUser(pb.CreateUserRequest(user=user))


async def count_of(urls: dict[str, str], address: str) -> int:
    async with await psycopg.AsyncConnection.connect(urls["users"]) as connection:
        cursor = await connection.execute("SELECT count(*) FROM users.users WHERE email = %s", [address])
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_of_several_writers_with_one_etag_one_wins(services: Services) -> None:
    made = await make(services)

    async def write(name: str) -> grpc.StatusCode:
        user = pb.User(user_id=made.user_id, display_name=name, etag=made.etag)
        code: grpc.StatusCode = await services.users.UpdateUser(pb.UpdateUserRequest(user=user)).code()
        return code

    codes = await asyncio.gather(*(write(f"writer {n}") for n in range(8)))
    assert sorted(code.name for code in codes) == ["ABORTED"] * 7 + ["OK"]


async def test_writers_who_read_again_lose_no_update(services: Services) -> None:
    made = await make(services)

    async def add_one() -> None:
        while True:
            user = await services.users.GetUser(pb.GetUserRequest(user_id=made.user_id))
            user.display_name = str(int(user.display_name) + 1)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await services.users.UpdateUser(pb.UpdateUserRequest(user=user, update_mask=NAME))
                return

    await asyncio.gather(*(add_one() for _ in range(6)))
    final = await services.users.GetUser(pb.GetUserRequest(user_id=made.user_id))
    assert (final.display_name, int(final.etag)) == ("6", int(made.etag) + 6)


async def test_of_several_who_take_one_email_at_once_one_has_it(
    services: Services, database_urls: dict[str, str]
) -> None:
    others = [await make(services) for _ in range(4)]
    address = email()

    async def take(user: pb.User) -> grpc.StatusCode:
        wanted = pb.User(user_id=user.user_id, email=address)
        code: grpc.StatusCode = await services.users.UpdateUser(pb.UpdateUserRequest(user=wanted)).code()
        return code

    codes = await asyncio.gather(*map(take, others))
    assert sorted(code.name for code in codes) == ["ALREADY_EXISTS"] * 3 + ["OK"]
    assert await count_of(database_urls, address) == 1


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02])
async def test_a_retry_after_a_lost_answer_makes_no_second_user(
    services: Services, database_urls: dict[str, str], delay: float
) -> None:
    """The caller goes away at several moments, before and after the user is made."""
    request = pb.CreateUserRequest(
        user=pb.User(email=email(), display_name="A"), request_id=str(uuid.uuid4())
    )
    lost = services.users.CreateUser(request)
    await asyncio.wait([asyncio.ensure_future(lost.code())], timeout=delay)
    lost.cancel()
    made = await services.users.CreateUser(request)
    request.request_id = request.request_id.upper()
    assert await services.users.CreateUser(request) == made
    assert await count_of(database_urls, request.user.email) == 1


async def test_a_request_id_belongs_to_its_caller(services: Services) -> None:
    services.verifier.answers["bob"] = principal("write:users", subject="subject-of-bob")
    request_id = str(uuid.uuid4())
    mine, his = (
        pb.CreateUserRequest(user=pb.User(email=email(), display_name="A"), request_id=request_id)
        for _ in range(2)
    )
    first = await services.users.CreateUser(mine)
    second = await services.open_stub("bob").CreateUser(his)
    assert first.user_id != second.user_id


async def test_imports_of_the_same_rows_in_other_orders_end_and_make_each_user_once(
    services: Services,
) -> None:
    rows = [(n, email()) for n in range(1, 1501)]

    async def load(seed: int) -> pb.ImportUsersResponse:
        mixed = random.Random(seed).sample(rows, len(rows))
        requests = [pb.ImportUsersRequest(row_number=n, email=e, display_name="Bob") for n, e in mixed]
        return await services.users.ImportUsers(requests, timeout=60)

    answers = await asyncio.gather(*map(load, range(3)))
    assert sum(answer.created_count for answer in answers) == len(rows)
    assert all(answer.row_count == len(rows) for answer in answers)
    assert all(answer.created_count + answer.failed_count == len(rows) for answer in answers)


class Follower:
    """A watcher that goes away again and again, and comes back with its last token."""

    def __init__(self, services: Services, seed: int) -> None:
        self._services = services
        self._random = random.Random(seed)
        self.seen: list[tuple[int, str, str]] = []
        self.opened = asyncio.Event()

    async def follow(self) -> None:
        token = ""
        while True:
            watch: Any = self._services.users.WatchUsers(pb.WatchUsersRequest(resume_token=token))
            for _ in range(self._random.randint(1, 8)):
                answer = await watch.read()
                token = answer.resume_token
                self.opened.set()
                if answer.HasField("user"):
                    self.seen.append((answer.change, answer.user.user_id, answer.user.display_name))
            watch.cancel()


@pytest.mark.parametrize("seed", [1, 2])
async def test_watchers_that_come_back_see_every_change_once_and_in_order(
    services: Services, seed: int
) -> None:
    followers = [Follower(services, seed * 10 + n) for n in range(3)]
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    await asyncio.gather(*(follower.opened.wait() for follower in followers))
    wrote: list[tuple[int, str, str]] = []

    async def write(number: int) -> None:
        source = random.Random(seed * 100 + number)
        user = await make(services, "0")
        wrote.append((CREATED, user.user_id, "0"))
        for step in range(1, source.randint(3, 9)):
            change = pb.User(user_id=user.user_id, display_name=str(step))
            await services.users.UpdateUser(pb.UpdateUserRequest(user=change, update_mask=NAME))
            wrote.append((UPDATED, user.user_id, str(step)))
        if source.random() < 0.5:
            await services.users.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))
            wrote.append((DELETED, user.user_id, ""))

    await asyncio.gather(*map(write, range(8)))
    async with asyncio.timeout(60):
        while any(len(follower.seen) < len(wrote) for follower in followers):
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for follower in followers:
        assert sorted(follower.seen) == sorted(wrote)
        for user_id in {user_id for _, user_id, _ in wrote}:
            assert [c for c in follower.seen if c[1] == user_id] == [c for c in wrote if c[1] == user_id]
    assert all(follower.seen == followers[0].seen for follower in followers)


async def test_pruning_takes_all_that_is_old_and_its_floor_only_rises(
    services: Services, database_urls: dict[str, str]
) -> None:
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as owner:
        await owner.execute(
            "INSERT INTO users.user_changes (xid, kind, message, change_time)"
            " SELECT 3, 1, '', now() - interval '30 days' FROM generate_series(1, 11000)"
        )
        await owner.execute(
            "INSERT INTO users.requests VALUES ('s', gen_random_uuid(), '', '', now() - interval '30 days')"
        )
        await owner.execute("UPDATE users.change_feed SET pruned_xid = 4, pruned_position = 5")
        assert sum(await asyncio.gather(services.repository.prune(), services.repository.prune())) == 11000
        query = (
            "SELECT pruned_xid, pruned_position, (SELECT count(*) FROM users.requests WHERE subject = 's')"
            " FROM users.change_feed"
        )
        assert await (await owner.execute(query)).fetchone() == (4, 5, 0)
        await owner.execute("UPDATE users.change_feed SET pruned_xid = 0, pruned_position = 0")
    assert await services.repository.prune() == 0


@pytest.mark.parametrize(
    "request_",
    [
        pb.CreateUserRequest(user=pb.User(email="a@example.test", display_name="a\0b")),
        pb.CreateUserRequest(user=pb.User(email="a@example.test", display_name="a\nb")),
        pb.ListUsersRequest(filter='display_name = "\0"'),
    ],
)
async def test_what_no_text_of_the_database_can_hold_is_refused(services: Services, request_: Any) -> None:
    create = isinstance(request_, pb.CreateUserRequest)
    call = services.users.CreateUser(request_) if create else services.users.ListUsers(request_)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
async def test_a_forged_page_token_with_such_a_text_is_refused(services: Services, text: str) -> None:
    """A token is not signed: it names a row, and whoever may list may name any."""
    await make(services)
    await make(services)
    page = await services.users.ListUsers(pb.ListUsersRequest(order_by="email", page_size=1))
    raw = page.next_page_token
    query, _, user_id = json.loads(base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))

    def forged(value: str) -> pb.ListUsersRequest:
        token = base64.urlsafe_b64encode(json.dumps([query, value, user_id]).encode()).rstrip(b"=")
        return pb.ListUsersRequest(order_by="email", page_size=1, page_token=token.decode())

    assert await services.users.ListUsers(forged("a")).code() is grpc.StatusCode.OK
    call = services.users.ListUsers(forged(text))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_row_with_such_a_text_fails_alone(services: Services) -> None:
    rows = [
        pb.ImportUsersRequest(row_number=n, email=email(), display_name=d) for n, d in ((1, "\0"), (2, "Bob"))
    ]
    response = await services.users.ImportUsers(rows)
    assert (response.created_count, response.failed_count) == (1, 1)
    assert response.errors[0].status.code == code_pb2.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"name": "Al\0ice\ud800 \n"}, "Alice"),
        ({"name": "\0", "preferred_username": "alice"}, "alice"),
        ({"name": 7}, "subject"),
        ({"name": "x" * 300}, "x" * 200),
    ],
)
async def test_the_record_of_a_caller_has_a_name_that_can_be_shown(
    services: Services, claims: dict[str, object], wanted: str
) -> None:
    subject = f"subject {uuid.uuid4()}"
    services.verifier.answers["bob"] = principal(subject=subject, claims=claims)
    own = await services.open_stub("bob").GetCurrentUser(pb.GetCurrentUserRequest())
    assert own.display_name == (subject if wanted == "subject" else wanted)
    assert (own.subject, own.state) == (subject, pb.USER_STATE_ACTIVE)


async def test_the_record_of_a_caller_takes_its_verified_email_only(services: Services) -> None:
    for verified, address in ((True, email()), (False, email())):
        services.verifier.answers["bob"] = principal(
            subject=f"subject {uuid.uuid4()}", claims={"email": address, "email_verified": verified}
        )
        own = await services.open_stub("bob").GetCurrentUser(pb.GetCurrentUserRequest())
        assert (own.email == address) is verified
