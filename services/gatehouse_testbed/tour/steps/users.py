"""The repository's users are imported in one client stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.files import UserRow, read_users, users_file
from gatehouse_testbed.tour.callers import CLIENTS, Desk
from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.matrix import Calls

IMPORT_SECONDS = 60.0
_THERE_ALREADY = grpc.StatusCode.ALREADY_EXISTS.value[0]


async def users(visit: Visit) -> None:
    """Imports them, and checks that each row has one of two fates."""
    rows = read_users(users_file())
    began = time.monotonic()
    with visit.report.progress("ImportUsers", len(rows)) as told:
        answer = await import_users(visit.calls, visit.desk, rows, told)
    seconds = time.monotonic() - began
    is_whole = answer.row_count == len(rows) == answer.created_count + answer.failed_count
    visit.report.check(
        f"ImportUsers by {CLIENTS[0]}: {answer.row_count} rows, {answer.created_count} created, "
        f"{answer.failed_count} were there already, {seconds:.2f} s",
        good=is_whole and all(error.status.code == _THERE_ALREADY for error in answer.errors),
    )


async def import_users(
    calls: Calls, desk: Desk, rows: Sequence[UserRow], told: Callable[[int], None]
) -> users_pb2.ImportUsersResponse:
    """Imports users as gatehouse-worker.

    Args:
        calls: The services.
        desk: The issuer.
        rows: The users.
        told: Told of each number of rows that are sent.

    Raises:
        DemoError: It is refused.
    """
    token = await desk.of_client(CLIENTS[0])
    stub: Any = users_pb2_grpc.UserServiceStub(calls.channel("users"))

    async def stream() -> AsyncIterator[users_pb2.ImportUsersRequest]:
        for row in rows:
            yield users_pb2.ImportUsersRequest(
                row_number=row.number, email=row.email, display_name=row.display_name
            )
            told(1)

    metadata = (("authorization", f"Bearer {token}"),)
    try:
        answer: users_pb2.ImportUsersResponse = await stub.ImportUsers(
            stream(), metadata=metadata, timeout=IMPORT_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        raise DemoError(f"ImportUsers: {error.code().name}: {error.details()}") from None
    return answer
