"""UserService over gRPC on a real database."""

from __future__ import annotations

import asyncio
import uuid
from itertools import combinations

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.domain import InvalidArgument
from gatehouse.oauth import Actor
from gatehouse.users.service import IMPORT_BATCH, MAX_IMPORT_ERRORS, UPDATABLE_FIELDS, updated_fields
from gatehouse.users.v1 import users_pb2 as pb
from tests.support.eventually import eventually
from tests.support.rpc import principal
from tests.support.services import Services, invalid_fields, random_email, run_sql


async def test_created_user_can_be_read(services: Services) -> None:
    created = await services.create_user(display_name="Alice")
    assert uuid.UUID(created.user_id).version == 7
    assert (created.display_name, created.state) == ("Alice", pb.USER_STATE_ACTIVE)
    assert await services.users.GetUser(pb.GetUserRequest(user_id=created.user_id)) == created


async def test_missing_user_is_not_found(services: Services) -> None:
    call = services.users.GetUser(pb.GetUserRequest(user_id=str(uuid.uuid4())))
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "user not found"


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (pb.User(email="nonsense", display_name="A"), "user.email"),
        (pb.User(display_name="A"), "user"),
        (pb.User(email="a@example.test"), "user"),
        (pb.User(email="a@example.test", display_name="A" * 201), "user.display_name"),
        (pb.User(email="a@example.test", display_name="a\0b"), "user.display_name"),
        (pb.User(email="a@example.test", display_name="a\nb"), "user.display_name"),
        (pb.User(email="a@example.test", display_name="A", state=7), "user.state"),
    ],
)
async def test_invalid_user_is_rejected_with_its_field(services: Services, user: pb.User, field: str) -> None:
    assert field in await invalid_fields(services.users.CreateUser(pb.CreateUserRequest(user=user)))


async def test_email_is_unique_without_regard_to_case(services: Services) -> None:
    email = (await services.create_user()).email
    user = pb.User(email=email.upper(), display_name="A")
    call = services.users.CreateUser(pb.CreateUserRequest(user=user))
    assert await call.code() is grpc.StatusCode.ALREADY_EXISTS


@given(
    st.lists(
        st.one_of(st.sampled_from([*UPDATABLE_FIELDS, "*", "user_id", "user.email"]), st.text(max_size=5))
    ),
    st.sets(st.sampled_from(UPDATABLE_FIELDS)),
)
def test_update_mask_selects_updatable_fields_that_have_a_value(paths: list[str], given_: set[str]) -> None:
    values = {"email": "a@example.test", "display_name": "A", "state": pb.USER_STATE_ACTIVE}
    user = pb.User(**{name: values[name] for name in given_})
    request = pb.UpdateUserRequest(user=user, update_mask=field_mask_pb2.FieldMask(paths=paths))
    wanted = set(UPDATABLE_FIELDS) if set(paths) == {"*"} else set(paths) or given_
    if wanted <= given_:
        assert sorted(updated_fields(request)) == sorted(wanted)
    else:
        with pytest.raises(InvalidArgument) as caught:
            updated_fields(request)
        assert caught.value.field in {"update_mask", *(f"user.{name}" for name in UPDATABLE_FIELDS)}


@pytest.mark.parametrize("paths", [c for n in (1, 2, 3) for c in combinations(UPDATABLE_FIELDS, n)])
async def test_update_writes_the_fields_of_its_mask_only(services: Services, paths: tuple[str, ...]) -> None:
    before = await services.create_user()
    user = pb.User(
        user_id=before.user_id, email=random_email(), display_name="New", state=pb.USER_STATE_SUSPENDED
    )
    mask = field_mask_pb2.FieldMask(paths=paths)
    after = await services.users.UpdateUser(pb.UpdateUserRequest(user=user, update_mask=mask))
    for field in UPDATABLE_FIELDS:
        assert getattr(after, field) == getattr(user if field in paths else before, field)
    assert after.etag != before.etag


@pytest.mark.parametrize("path", ["user_id", "nothing", "create_time", "display_name.x", ""])
async def test_update_mask_with_another_field_is_rejected(services: Services, path: str) -> None:
    user = await services.create_user()
    request = pb.UpdateUserRequest(user=user, update_mask=field_mask_pb2.FieldMask(paths=[path]))
    assert await invalid_fields(services.users.UpdateUser(request)) == ["update_mask"]


async def test_outdated_etag_aborts_a_change(services: Services) -> None:
    user = await services.create_user()
    user.display_name = "New"
    await services.users.UpdateUser(pb.UpdateUserRequest(user=user))
    user.display_name = "Newer"
    for call in (
        services.users.UpdateUser(pb.UpdateUserRequest(user=user)),
        services.users.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id, etag=user.etag)),
    ):
        assert await call.code() is grpc.StatusCode.ABORTED


async def test_update_fails_for_an_email_of_another_user_and_for_a_missing_user(services: Services) -> None:
    first, second = await services.create_user(), await services.create_user()
    second.email = first.email
    call = services.users.UpdateUser(pb.UpdateUserRequest(user=second))
    assert await call.code() is grpc.StatusCode.ALREADY_EXISTS
    second.user_id = str(uuid.uuid4())
    call = services.users.UpdateUser(pb.UpdateUserRequest(user=second))
    assert await call.code() is grpc.StatusCode.NOT_FOUND


async def test_user_is_deleted_once(services: Services) -> None:
    request = pb.DeleteUserRequest(user_id=(await services.create_user()).user_id)
    await services.users.DeleteUser(request)
    assert await services.users.DeleteUser(request).code() is grpc.StatusCode.NOT_FOUND
    request.allow_missing = True
    assert await services.users.DeleteUser(request).code() is grpc.StatusCode.OK


async def test_current_user_does_not_take_over_the_user_with_its_email(services: Services) -> None:
    user = await services.create_user()
    services.verifier.answers["bob"] = principal(
        subject="subject-of-mallory", claims={"email": user.email, "email_verified": True, "name": "Mallory"}
    )
    current = await services.users_as_bob.GetCurrentUser(pb.GetCurrentUserRequest())
    assert current.user_id != user.user_id
    assert current.email == f"{current.user_id}@users.invalid"


@pytest.mark.parametrize("verified", [True, False])
async def test_current_user_gets_a_verified_email_only(services: Services, verified: bool) -> None:
    email = random_email()
    services.verifier.answers["bob"] = principal(
        subject=f"subject {uuid.uuid4()}", claims={"email": email, "email_verified": verified}
    )
    current = await services.users_as_bob.GetCurrentUser(pb.GetCurrentUserRequest())
    assert (current.email == email) is verified


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "Al\0ice\ud800 \n"}, "Alice"),
        ({"name": "\0", "preferred_username": "alice"}, "alice"),
        ({"name": 7}, None),
        ({"name": "x" * 300}, "x" * 200),
    ],
)
async def test_current_user_gets_a_printable_name(
    services: Services, claims: dict[str, object], name: str | None
) -> None:
    subject = f"subject {uuid.uuid4()}"
    services.verifier.answers["bob"] = principal(subject=subject, claims=claims)
    current = await services.users_as_bob.GetCurrentUser(pb.GetCurrentUserRequest())
    assert current.display_name == (name or subject)
    assert (current.subject, current.state) == (subject, pb.USER_STATE_ACTIVE)


async def test_lookups_are_answered_in_order(services: Services) -> None:
    users = [await services.create_user() for _ in range(2)]
    ids = [users[0].user_id, str(uuid.uuid4()), users[1].user_id]
    call = services.users.LookupUsers([pb.LookupUsersRequest(user_id=user_id) for user_id in ids])
    responses = [response async for response in call]
    assert [response.user_id for response in responses] == ids
    assert [response.WhichOneof("result") for response in responses] == ["user", "error", "user"]
    assert responses[1].error.code == code_pb2.NOT_FOUND


async def test_import_reports_invalid_rows_and_creates_the_others(services: Services) -> None:
    rows = [(random_email(), "Bob") for _ in range(2 * IMPORT_BATCH + 100)]
    rows[10] = ("nonsense", "Bob")
    rows[20] = ((await services.create_user()).email, "Bob")
    rows[30] = (rows[29][0].upper(), "Bob")
    rows[40] = ("", "Bob")
    rows[50] = (random_email(), "")
    rows[60] = (random_email(), "\0")
    requests = [
        pb.ImportUsersRequest(row_number=number, email=email, display_name=name)
        for number, (email, name) in enumerate(rows, start=1)
    ]
    response = await services.users.ImportUsers(requests, timeout=60)
    assert response.row_count == len(rows)
    assert (response.created_count, response.failed_count) == (len(rows) - 6, 6)
    assert {error.row_number: error.status.code for error in response.errors} == {
        11: code_pb2.INVALID_ARGUMENT,
        21: code_pb2.ALREADY_EXISTS,
        31: code_pb2.ALREADY_EXISTS,
        41: code_pb2.INVALID_ARGUMENT,
        51: code_pb2.INVALID_ARGUMENT,
        61: code_pb2.INVALID_ARGUMENT,
    }
    assert "nonsense" not in str(response)


async def test_import_counts_all_errors_and_reports_the_first_ones(services: Services) -> None:
    count = MAX_IMPORT_ERRORS + 1
    requests = [pb.ImportUsersRequest(row_number=number) for number in range(1, count + 1)]
    response = await services.users.ImportUsers(requests, timeout=60)
    assert response.failed_count == count
    assert [error.row_number for error in response.errors] == list(range(1, count))


async def test_counts_add_up(services: Services) -> None:
    before = await services.users.CountUsers(pb.CountUsersRequest())
    await services.create_user()
    await services.create_user(state=pb.USER_STATE_SUSPENDED)
    after = await services.users.CountUsers(pb.CountUsersRequest())
    assert after.total_count == before.total_count + 2
    assert after.active_count == before.active_count + 1
    assert after.total_count == after.active_count + after.suspended_count


async def test_every_change_adds_an_audit_event(services: Services, database_urls: dict[str, str]) -> None:
    user_id = (await services.create_user()).user_id
    user = pb.User(user_id=user_id, display_name="New")
    await services.users.UpdateUser(pb.UpdateUserRequest(user=user))
    await services.users.DeleteUser(pb.DeleteUserRequest(user_id=user_id))
    rows = await run_sql(
        database_urls["users"],
        "SELECT action, subject, method FROM users.audit_events WHERE resource = %s ORDER BY audit_event_id",
        [f"users/{user_id}"],
    )
    service = "gatehouse.users.v1.UserService"
    assert rows == [
        ("user.created", "subject-of-alice", f"{service}/CreateUser"),
        ("user.updated", "subject-of-alice", f"{service}/UpdateUser"),
        ("user.deleted", "subject-of-alice", f"{service}/DeleteUser"),
    ]


async def test_audit_event_names_issuer_subject_and_actor(
    services: Services, database_urls: dict[str, str]
) -> None:
    services.verifier.answers["bob"] = principal(
        "write:users", issuer="https://other.test", actor=Actor("https://sts.test", "support")
    )
    created = await services.users_as_bob.CreateUser(
        pb.CreateUserRequest(user=pb.User(email=random_email(), display_name="Bob"))
    )
    rows = await run_sql(
        database_urls["users"],
        "SELECT issuer, subject, actor_issuer, actor_subject FROM users.audit_events WHERE resource = %s",
        [f"users/{created.user_id}"],
    )
    assert rows == [("https://other.test", "subject-of-alice", "https://sts.test", "support")]


async def test_request_ids_of_equal_subjects_at_two_issuers_are_separate(services: Services) -> None:
    services.verifier.answers["bob"] = principal("write:users", issuer="https://other.test")
    request_id = str(uuid.uuid4())
    first, second = (
        pb.CreateUserRequest(user=pb.User(email=random_email(), display_name="Bob"), request_id=request_id)
        for _ in range(2)
    )
    created = await services.users.CreateUser(first)
    # The response to alice is not given to the caller of the other issuer, who uses her subject and her id.
    assert await services.users_as_bob.CreateUser(first).code() is grpc.StatusCode.ALREADY_EXISTS
    assert (await services.users_as_bob.CreateUser(second)).email == second.user.email
    assert await services.users.CreateUser(first) == created


async def test_cancelled_call_cancels_its_query(services: Services, database_urls: dict[str, str]) -> None:
    async def blocked() -> int:
        ((count,),) = await run_sql(
            database_urls["owner"],
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND usename = 'gatehouse_users' AND datname = current_database()",
        )
        return int(count)

    async def none_blocked() -> bool:
        return await blocked() == 0

    async with await psycopg.AsyncConnection.connect(database_urls["owner"]) as owner:
        await owner.execute("LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
        call = services.users.CountUsers(pb.CountUsersRequest(), timeout=20)
        code = asyncio.ensure_future(call.code())
        await eventually(blocked)
        call.cancel()
        await eventually(none_blocked)
        assert await code is grpc.StatusCode.CANCELLED
