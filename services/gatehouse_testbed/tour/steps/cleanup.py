"""Remove the users that the tour has created."""

from __future__ import annotations

import asyncio

import grpc

from gatehouse_testbed.tour.context import TourContext

PAGE_SIZE = 1_000
CONCURRENT_CALLS = 20


async def remove_users(context: TourContext) -> None:
    """Delete the imported users, those of the matrix, and entries of callers who had none before."""
    if context.control is not None:
        context.report.note("nothing to do: this demo removes its database")
        return
    services, token = context.services, await context.tokens.of_user("alice")
    of_matrix = {
        cell.outcome.responses[0].user_id
        for cell in context.cells
        if cell.row.method in {"CreateUser", "GetCurrentUser"} and cell.outcome.code is grpc.StatusCode.OK
    }
    created: list[str] = []
    # Other users have been created before, or by others meanwhile.
    request = {"filter": f'create_time >= "{context.started_at}"', "page_size": PAGE_SIZE}
    while True:
        outcome = await services.call("users", "ListUsers", [request], token=token)
        if outcome.code is not grpc.StatusCode.OK:
            context.report.check(f"ListUsers by alice: {outcome.code.name}: {outcome.message}", ok=False)
            return
        page = outcome.responses[0]
        created += [u.user_id for u in page.users if u.user_id in of_matrix or u.email in context.imported]
        if not page.next_page_token:
            break
        request = request | {"page_token": page.next_page_token}
    limit = asyncio.Semaphore(CONCURRENT_CALLS)

    async def delete(user_id: str) -> bool:
        async with limit:
            deleted = await services.call("users", "DeleteUser", [{"user_id": user_id}], token=token)
            return deleted.code is grpc.StatusCode.OK

    deleted = sum(await asyncio.gather(*(delete(user_id) for user_id in created)))
    context.report.check(
        f"DeleteUser by alice: {deleted} of the {len(created)} users that this tour created",
        ok=deleted == len(created),
    )
