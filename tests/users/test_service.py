"""UserService over gRPC on a real database."""

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.users.v1 import users_pb2 as pb
from tests.support.rpc import principal
from tests.support.services import Services, open_services


def email() -> str:
    return f"{uuid.uuid4().hex}@example.test"


async def make(services: Services, **fields: str) -> pb.User:
    user = pb.User(**{"email": email(), "display_name": "Alice", **fields})
    return await services.users.CreateUser(pb.CreateUserRequest(user=user))


def code_of(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return caught.value.code()


def fields_of(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> list[str]:
    raw = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    found = []
    for detail in status_pb2.Status.FromString(raw).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [v.field for v in bad.field_violations]
    return found


async def test_a_user_that_was_made_can_be_read(services: Services) -> None:
    made = await make(services)
    assert uuid.UUID(made.user_id).version == 7
    assert made.state == pb.USER_STATE_ACTIVE
    assert await services.users.GetUser(pb.GetUserRequest(user_id=made.user_id)) == made


async def test_a_user_that_is_not_there_is_not_found(services: Services) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.GetUser(pb.GetUserRequest(user_id=str(uuid.uuid4())))
    assert code_of(caught) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (pb.User(email="nonsense", display_name="A"), "user.email"),
        (pb.User(display_name="A"), "user"),
        (pb.User(email="a@example.test"), "user"),
        (pb.User(email="a@example.test", display_name="A" * 201), "user.display_name"),
        (pb.User(email="a@example.test", display_name="A", state=7), "user.state"),
    ],
)
async def test_a_user_that_is_not_valid_is_refused_with_its_field(
    services: Services, user: pb.User, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.CreateUser(pb.CreateUserRequest(user=user))
    assert code_of(caught) is grpc.StatusCode.INVALID_ARGUMENT
    assert field in fields_of(caught)


async def test_an_email_is_taken_without_regard_to_case(services: Services) -> None:
    made = await make(services)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await make(services, email=made.email.upper())
    assert code_of(caught) is grpc.StatusCode.ALREADY_EXISTS


async def test_a_repeated_request_id_makes_one_user(services: Services) -> None:
    request = pb.CreateUserRequest(
        user=pb.User(email=email(), display_name="A"), request_id=str(uuid.uuid4())
    )
    answers = await asyncio.gather(*(services.users.CreateUser(request) for _ in range(5)))
    assert len({a.user_id for a in answers}) == 1
    request.user.display_name = "B"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.CreateUser(request)
    assert code_of(caught) is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(caught) == ["request_id"]


async def test_an_update_writes_the_fields_of_its_mask_and_no_other(services: Services) -> None:
    made = await make(services)
    user = pb.User(user_id=made.user_id, display_name="Bob", state=pb.USER_STATE_SUSPENDED)
    updated = await services.users.UpdateUser(
        pb.UpdateUserRequest(user=user, update_mask=field_mask_pb2.FieldMask(paths=["state"]))
    )
    assert (updated.display_name, updated.state) == ("Alice", pb.USER_STATE_SUSPENDED)
    assert updated.etag != made.etag


@pytest.mark.parametrize("path", ["user_id", "nothing", "create_time", "display_name.x", ""])
async def test_a_mask_with_a_field_that_cannot_be_written_is_refused(services: Services, path: str) -> None:
    made = await make(services)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.UpdateUser(
            pb.UpdateUserRequest(user=made, update_mask=field_mask_pb2.FieldMask(paths=[path]))
        )
    assert fields_of(caught) == ["update_mask"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(st.sampled_from(["email", "display_name", "state"]), unique=True, min_size=1))
async def test_any_mask_writes_just_its_fields(database_urls: dict[str, str], paths: list[str]) -> None:
    async with open_services(database_urls) as services:
        made = await make(services)
        wanted = pb.User(
            user_id=made.user_id, email=email(), display_name="Bob", state=pb.USER_STATE_SUSPENDED
        )
        updated = await services.users.UpdateUser(
            pb.UpdateUserRequest(user=wanted, update_mask=field_mask_pb2.FieldMask(paths=paths))
        )
        for field in ("email", "display_name", "state"):
            assert getattr(updated, field) == getattr(wanted if field in paths else made, field)


async def test_an_old_etag_aborts_a_change(services: Services) -> None:
    made = await make(services)
    made.display_name = "Bob"
    await services.users.UpdateUser(pb.UpdateUserRequest(user=made))
    made.display_name = "Carol"
    for call in (
        services.users.UpdateUser(pb.UpdateUserRequest(user=made)),
        services.users.DeleteUser(pb.DeleteUserRequest(user_id=made.user_id, etag=made.etag)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert code_of(caught) is grpc.StatusCode.ABORTED


async def test_an_update_cannot_take_an_email_or_miss_a_user(services: Services) -> None:
    first, second = await make(services), await make(services)
    second.email = first.email
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.UpdateUser(pb.UpdateUserRequest(user=second))
    assert code_of(caught) is grpc.StatusCode.ALREADY_EXISTS
    second.user_id = str(uuid.uuid4())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.UpdateUser(pb.UpdateUserRequest(user=second))
    assert code_of(caught) is grpc.StatusCode.NOT_FOUND


async def test_a_user_is_deleted_once(services: Services) -> None:
    made = await make(services)
    request = pb.DeleteUserRequest(user_id=made.user_id)
    await services.users.DeleteUser(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.DeleteUser(request)
    assert code_of(caught) is grpc.StatusCode.NOT_FOUND
    request.allow_missing = True
    await services.users.DeleteUser(request)


async def test_the_caller_has_one_record_made_at_first_sight(services: Services) -> None:
    answers = await asyncio.gather(
        *(services.users.GetCurrentUser(pb.GetCurrentUserRequest()) for _ in range(5))
    )
    assert {a.subject for a in answers} == {"subject-of-alice"}
    assert len({a.user_id for a in answers}) == 1


async def test_a_caller_does_not_gain_the_record_of_its_email(services: Services) -> None:
    made = await make(services)
    services.verifier.answers["bob"] = principal(
        subject="subject-of-mallory", claims={"email": made.email, "email_verified": True, "name": "Mallory"}
    )
    own = await services.open_stub("bob").GetCurrentUser(pb.GetCurrentUserRequest())
    assert own.user_id != made.user_id
    assert own.email == f"{own.user_id}@users.invalid"


async def test_lookups_are_answered_in_order(services: Services) -> None:
    made = [await make(services) for _ in range(3)]
    wanted = [made[0].user_id, str(uuid.uuid4()), made[2].user_id]
    call = services.users.LookupUsers([pb.LookupUsersRequest(user_id=i) for i in wanted])
    answers = [a async for a in call]
    assert [a.user_id for a in answers] == wanted
    assert [a.WhichOneof("result") for a in answers] == ["user", "error", "user"]
    assert answers[1].error.code == code_pb2.NOT_FOUND


async def test_an_import_reports_bad_rows_and_makes_the_others(services: Services) -> None:
    taken = (await make(services)).email
    rows = [(f"{uuid.uuid4().hex}@example.test", f"User {n}") for n in range(10_000)]
    rows[10] = ("nonsense", "x")
    rows[20] = (taken, "x")
    rows[30] = (rows[29][0].upper(), "x")
    rows[40] = ("", "x")
    rows[50] = (email(), "")
    requests = [
        pb.ImportUsersRequest(row_number=n, email=e, display_name=d) for n, (e, d) in enumerate(rows, start=1)
    ]
    response = await services.users.ImportUsers(requests, timeout=60)
    assert (response.row_count, response.created_count, response.failed_count) == (10_000, 9_995, 5)
    assert {e.row_number: e.status.code for e in response.errors} == {
        11: code_pb2.INVALID_ARGUMENT,
        21: code_pb2.ALREADY_EXISTS,
        31: code_pb2.ALREADY_EXISTS,
        41: code_pb2.INVALID_ARGUMENT,
        51: code_pb2.INVALID_ARGUMENT,
    }
    assert "nonsense" not in str(response)


async def test_counts_add_up(services: Services) -> None:
    before = await services.users.CountUsers(pb.CountUsersRequest())
    await make(services)
    user = await make(services)
    user.state = pb.USER_STATE_SUSPENDED
    await services.users.UpdateUser(pb.UpdateUserRequest(user=user))
    after = await services.users.CountUsers(pb.CountUsersRequest())
    assert after.total_count == before.total_count + 2
    assert after.active_count == before.active_count + 1
    assert after.total_count == after.active_count + after.suspended_count


async def every_page(services: Services, **query: object) -> list[pb.User]:
    found: list[pb.User] = []
    token = ""
    while True:
        page = await services.users.ListUsers(pb.ListUsersRequest(page_token=token, **query))
        found += page.users
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(
    "order", ["", "create_time desc", "email", "email desc", "display_name", "display_name desc"]
)
@pytest.mark.parametrize("size", [1, 3, 7])
async def test_pages_hold_every_user_once_and_in_order(services: Services, order: str, size: int) -> None:
    tag = uuid.uuid4().hex
    for n in range(7):
        await make(services, display_name=f"{tag} {n // 2}")
    query = {"filter": f'display_name = "{tag}*"', "order_by": order}
    paged = await every_page(services, page_size=size, **query)
    whole = await every_page(services, page_size=1000, **query)
    assert [u.user_id for u in paged] == [u.user_id for u in whole]
    assert len({u.user_id for u in paged}) == 7
    name = order.split(maxsplit=1)[0] if order else "create_time"
    values = [u.create_time.ToNanoseconds() if name == "create_time" else getattr(u, name) for u in whole]
    assert values == sorted(values, reverse="desc" in order)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("state = ACTIVE", 2),
        ("state != ACTIVE", 1),
        ('display_name : "TAG b"', 1),
        ('display_name = "TAG*" AND state = SUSPENDED', 1),
        ('create_time > "2020-01-01T00:00:00Z"', 3),
        ('create_time < "2020-01-01T00:00:00Z"', 0),
        ('display_name != "TAG*"', 0),
        ('display_name >= "TAG b"', 2),
    ],
)
async def test_a_filter_holds(services: Services, text: str, count: int) -> None:
    tag = uuid.uuid4().hex
    for letter in "ab":
        await make(services, display_name=f"{tag} {letter}")
    user = pb.User(email=email(), display_name=f"{tag} c", state=pb.USER_STATE_SUSPENDED)
    await services.users.CreateUser(pb.CreateUserRequest(user=user))
    found = await every_page(services, filter=f'display_name : "{tag}" AND ' + text.replace("TAG", tag))
    assert len(found) == count


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter", "nonsense"),
        ("filter", "state = ACTIVE state = ACTIVE"),
        ("filter", 'password = "x"'),
        ("filter", "state = WRONG"),
        ("filter", 'create_time = "yesterday"'),
        ("filter", 'email < "a*"'),
        ("filter", " AND ".join(["state = ACTIVE"] * 11)),
        ("order_by", "password"),
        ("order_by", "email sideways"),
        ("page_token", "nonsense"),
        ("page_token", "WzFd"),
        ("page_token", "bnVsbA"),
    ],
)
async def test_a_query_that_cannot_be_used_is_refused_with_its_field(
    services: Services, field: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.ListUsers(pb.ListUsersRequest(**{field: value}))
    assert code_of(caught) is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(caught) == [field]


async def test_a_page_token_belongs_to_its_query(services: Services) -> None:
    await make(services)
    await make(services)
    page = await services.users.ListUsers(pb.ListUsersRequest(page_size=1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.users.ListUsers(pb.ListUsersRequest(page_token=page.next_page_token, order_by="email"))
    assert fields_of(caught) == ["page_token"]


async def test_a_watch_shows_changes_in_order_and_resumes_without_loss_or_repetition(
    services: Services,
) -> None:
    seen: list[tuple[int, str]] = []
    watch: Any = services.users.WatchUsers(pb.WatchUsersRequest())
    first = await watch.read()
    assert (first.change, first.HasField("user")) == (pb.USER_CHANGE_UNSPECIFIED, False)
    made = [await make(services) for _ in range(3)]
    answer = await watch.read()
    seen.append((answer.change, answer.user.user_id))
    watch.cancel()
    await services.users.DeleteUser(pb.DeleteUserRequest(user_id=made[0].user_id))
    watch = services.users.WatchUsers(pb.WatchUsersRequest(resume_token=answer.resume_token))
    await watch.read()
    async with asyncio.timeout(10):
        while len(seen) < 4:
            answer = await watch.read()
            seen.append((answer.change, answer.user.user_id))
    watch.cancel()
    created, deleted = pb.USER_CHANGE_CREATED, pb.USER_CHANGE_DELETED
    assert seen == [(created, u.user_id) for u in made] + [(deleted, made[0].user_id)]


async def test_a_watch_loses_no_change_of_a_transaction_that_ends_late(
    services: Services, database_urls: dict[str, str]
) -> None:
    """A reader that goes by positions alone passes the slow one by."""
    watch: Any = services.users.WatchUsers(pb.WatchUsersRequest())
    await watch.read()
    slow = (
        "INSERT INTO users.user_changes (xid, kind, message, change_time) "
        "VALUES (pg_current_xact_id()::text::bigint, 2, %s, now())"
    )
    late = pb.User(user_id=str(uuid.uuid4()))
    async with await psycopg.AsyncConnection.connect(database_urls["users"]) as connection:
        await connection.execute(slow, [late.SerializeToString()])
        early = await make(services)
        await connection.commit()
    async with asyncio.timeout(10):
        seen = {(await watch.read()).user.user_id for _ in range(2)}
    watch.cancel()
    assert seen == {late.user_id, early.user_id}


async def test_a_watch_from_before_the_feed_is_out_of_range(
    services: Services, database_urls: dict[str, str]
) -> None:
    watch: Any = services.users.WatchUsers(pb.WatchUsersRequest())
    token = (await watch.read()).resume_token
    watch.cancel()
    await make(services)
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as owner:
        await owner.execute("UPDATE users.user_changes SET change_time = now() - interval '30 days'")
    assert await services.repository.prune() > 0
    watch = services.users.WatchUsers(pb.WatchUsersRequest(resume_token=token))
    await watch.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert code_of(caught) is grpc.StatusCode.OUT_OF_RANGE


@pytest.mark.parametrize("token", ["x", "1", "1.2.3", "-1.2", "1.fffffffffffffffff"])
async def test_a_resume_token_that_is_none_is_refused(services: Services, token: str) -> None:
    watch: Any = services.users.WatchUsers(pb.WatchUsersRequest(resume_token=token))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert fields_of(caught) == ["resume_token"]


async def test_a_server_that_stops_ends_its_watches_so_that_they_resume_elsewhere(services: Services) -> None:
    watch: Any = services.users.WatchUsers(pb.WatchUsersRequest())
    await watch.read()
    async with asyncio.timeout(5):
        await services.users_server.stop(drain_seconds=30)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert code_of(caught) is grpc.StatusCode.UNAVAILABLE


async def test_every_change_leaves_an_audit_row(services: Services, database_urls: dict[str, str]) -> None:
    made = await make(services)
    await services.users.UpdateUser(
        pb.UpdateUserRequest(user=pb.User(user_id=made.user_id, display_name="B"))
    )
    await services.users.DeleteUser(pb.DeleteUserRequest(user_id=made.user_id))
    async with await psycopg.AsyncConnection.connect(database_urls["users"]) as connection:
        rows = await connection.execute(
            "SELECT action, subject, method FROM users.audit_events WHERE resource = %s"
            " ORDER BY audit_event_id",
            [f"users/{made.user_id}"],
        )
        assert await rows.fetchall() == [
            ("user.created", "subject-of-alice", "gatehouse.users.v1.UserService/CreateUser"),
            ("user.updated", "subject-of-alice", "gatehouse.users.v1.UserService/UpdateUser"),
            ("user.deleted", "subject-of-alice", "gatehouse.users.v1.UserService/DeleteUser"),
        ]


async def test_a_cancelled_call_cancels_its_query(services: Services, database_urls: dict[str, str]) -> None:
    async with (
        await psycopg.AsyncConnection.connect(database_urls["owner"]) as owner,
        await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as monitor,
    ):
        await owner.execute("LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
        call = services.users.CountUsers(pb.CountUsersRequest(), timeout=20)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND usename = 'gatehouse_users' AND datname = current_database()"
        )

        async def lockers() -> int:
            # A transaction sees one snapshot of pg_stat_activity, so each look is one of its own.
            row = await (await monitor.execute(waiting)).fetchone()
            assert row is not None
            return int(row[0])

        async with asyncio.timeout(10):
            pending = asyncio.ensure_future(call.code())
            while await lockers() == 0:
                await asyncio.sleep(0.01)
            call.cancel()
            while await lockers() > 0:
                await asyncio.sleep(0.01)
            assert await pending is grpc.StatusCode.CANCELLED
