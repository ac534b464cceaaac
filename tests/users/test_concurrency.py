"""UserService with concurrent callers, and with responses that get lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid

import grpc
import grpc.aio
import pytest
from google.protobuf import field_mask_pb2

from gatehouse.users.service import IMPORT_BATCH
from gatehouse.users.v1 import users_pb2 as pb
from tests.support.rpc import principal
from tests.support.services import Services, invalid_fields, random_email, run_sql


async def count_users(urls: dict[str, str], email: str) -> int:
    ((count,),) = await run_sql(urls["users"], "SELECT count(*) FROM users.users WHERE email = %s", [email])
    return int(count)


def new_request() -> pb.CreateUserRequest:
    user = pb.User(email=random_email(), display_name="A")
    return pb.CreateUserRequest(user=user, request_id=str(uuid.uuid4()))


async def test_one_of_several_writers_with_the_same_etag_succeeds(services: Services) -> None:
    user = await services.create_user()

    async def write(name: str) -> grpc.StatusCode:
        change = pb.User(user_id=user.user_id, display_name=name, etag=user.etag)
        return await services.users.UpdateUser(pb.UpdateUserRequest(user=change)).code()

    codes = await asyncio.gather(*(write(f"writer {number}") for number in range(8)))
    assert sorted(code.name for code in codes) == ["ABORTED"] * 7 + ["OK"]


async def test_writers_that_read_again_lose_no_update(services: Services) -> None:
    created = await services.create_user(display_name="0")
    mask = field_mask_pb2.FieldMask(paths=["display_name"])

    async def increment() -> None:
        while True:
            user = await services.users.GetUser(pb.GetUserRequest(user_id=created.user_id))
            user.display_name = str(int(user.display_name) + 1)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await services.users.UpdateUser(pb.UpdateUserRequest(user=user, update_mask=mask))
                return

    await asyncio.gather(*(increment() for _ in range(6)))
    user = await services.users.GetUser(pb.GetUserRequest(user_id=created.user_id))
    assert (user.display_name, int(user.etag)) == ("6", int(created.etag) + 6)


async def test_one_of_several_users_gets_an_email(services: Services, database_urls: dict[str, str]) -> None:
    users = [await services.create_user() for _ in range(4)]
    email = random_email()

    async def take(user: pb.User) -> grpc.StatusCode:
        change = pb.User(user_id=user.user_id, email=email)
        return await services.users.UpdateUser(pb.UpdateUserRequest(user=change)).code()

    codes = await asyncio.gather(*map(take, users))
    assert sorted(code.name for code in codes) == ["ALREADY_EXISTS"] * 3 + ["OK"]
    assert await count_users(database_urls, email) == 1


async def test_current_user_is_created_once(services: Services) -> None:
    request = pb.GetCurrentUserRequest()
    users = await asyncio.gather(*(services.users.GetCurrentUser(request) for _ in range(5)))
    assert {user.subject for user in users} == {"subject-of-alice"}
    assert len({user.user_id for user in users}) == 1


async def test_repeated_request_id_creates_one_user(services: Services) -> None:
    request = new_request()
    users = await asyncio.gather(*(services.users.CreateUser(request) for _ in range(5)))
    assert len({user.user_id for user in users}) == 1
    request.user.display_name = "B"
    assert await invalid_fields(services.users.CreateUser(request)) == ["request_id"]


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02])
async def test_retry_after_a_lost_response_creates_no_second_user(
    services: Services, database_urls: dict[str, str], delay: float
) -> None:
    """The caller cancels at several moments, before and after the user is created."""
    request = new_request()
    lost = services.users.CreateUser(request)
    await asyncio.wait([asyncio.ensure_future(lost.code())], timeout=delay)
    lost.cancel()
    user = await services.users.CreateUser(request)
    request.request_id = request.request_id.upper()
    assert await services.users.CreateUser(request) == user
    assert await count_users(database_urls, request.user.email) == 1


async def test_request_ids_of_two_callers_are_independent(services: Services) -> None:
    services.verifier.answers["bob"] = principal("write:users", subject="subject-of-bob")
    first, second = new_request(), new_request()
    second.request_id = first.request_id
    by_alice = await services.users.CreateUser(first)
    by_bob = await services.users_as_bob.CreateUser(second)
    assert by_alice.user_id != by_bob.user_id


async def test_old_request_ids_are_pruned(services: Services, database_urls: dict[str, str]) -> None:
    await services.users.CreateUser(new_request())
    await run_sql(
        database_urls["owner"],
        "INSERT INTO users.requests VALUES ('old', gen_random_uuid(), '', '', now() - interval '25 hours')",
    )
    await services.repository.prune_request_ids()
    rows = await run_sql(database_urls["users"], "SELECT DISTINCT subject FROM users.requests")
    assert ("subject-of-alice",) in rows
    assert ("old",) not in rows


async def test_imports_of_the_same_rows_in_another_order_create_each_user_once(services: Services) -> None:
    rows = [(number, random_email()) for number in range(1, IMPORT_BATCH + 101)]

    async def load(seed: int) -> pb.ImportUsersResponse:
        shuffled = random.Random(seed).sample(rows, len(rows))
        requests = [pb.ImportUsersRequest(row_number=n, email=e, display_name="Bob") for n, e in shuffled]
        return await services.users.ImportUsers(requests, timeout=60)

    responses = await asyncio.gather(*map(load, range(3)))
    assert sum(response.created_count for response in responses) == len(rows)
    assert all(response.row_count == len(rows) for response in responses)
    assert all(response.created_count + response.failed_count == len(rows) for response in responses)
