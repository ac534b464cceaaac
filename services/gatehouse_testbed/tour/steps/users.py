"""Import the demo users over one client stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import UserRow, read_users, users_file
from gatehouse_testbed.tour.callers import CLIENTS, TourTokens
from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.services import ServiceClients

IMPORT_SECONDS = 60.0
_ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS.value[0]


async def import_users(context: TourContext) -> None:
    """Import the users; each row is either created or already exists."""
    rows = read_users(users_file())
    started_at = time.monotonic()
    with context.report.progress("ImportUsers", len(rows)) as on_progress:
        answer = await import_rows(context.services, context.tokens, rows, on_progress)
    seconds = time.monotonic() - started_at
    existed = {error.row_number for error in answer.errors}
    context.imported = frozenset(row.email for row in rows if row.number not in existed)
    counts_match = answer.row_count == len(rows) == answer.created_count + answer.failed_count
    context.report.check(
        f"ImportUsers by {CLIENTS[0]}: {answer.row_count} rows, {answer.created_count} created, "
        f"{answer.failed_count} already existed, {seconds:.2f} s",
        ok=counts_match and all(error.status.code == _ALREADY_EXISTS for error in answer.errors),
    )


async def import_rows(
    services: ServiceClients, tokens: TourTokens, rows: Sequence[UserRow], on_progress: Callable[[int], None]
) -> users_pb2.ImportUsersResponse:
    """Import users as gatehouse-worker.

    Args:
        services: The services.
        tokens: Tokens of the callers.
        rows: The users.
        on_progress: Called with the number of rows just sent.

    Raises:
        TestbedError: The call fails.
    """
    token = await tokens.of_client(CLIENTS[0])
    stub: Any = users_pb2_grpc.UserServiceStub(services.channels["users"])

    async def requests() -> AsyncIterator[users_pb2.ImportUsersRequest]:
        for row in rows:
            yield users_pb2.ImportUsersRequest(
                row_number=row.number, email=row.email, display_name=row.display_name
            )
            on_progress(1)

    metadata = (("authorization", f"Bearer {token}"),)
    try:
        answer: users_pb2.ImportUsersResponse = await stub.ImportUsers(
            requests(), metadata=metadata, timeout=IMPORT_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        raise TestbedError(f"ImportUsers: {error.code().name}: {error.details()}") from None
    return answer
