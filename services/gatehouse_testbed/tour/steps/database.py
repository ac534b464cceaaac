"""Stop PostgreSQL and start it again: health and calls follow."""

from __future__ import annotations

import asyncio
import time

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.health import check_health
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.tour.context import Control, TourContext

HEALTH_SECONDS = 15.0
CALL_SECONDS = 3.0


async def restart_database(context: TourContext) -> None:
    """Stop the database and start it again, if the tour controls it."""
    if context.control is None:
        context.report.note("skipped: this tour cannot stop the database; `gatehouse demo` can")
        return
    try:
        await _stop(context, context.control)
    finally:
        started_at = time.monotonic()
        await context.control.start_database()
    for service in SERVICES:
        await wait_for_health(context.profile, service, serving=True, seconds=HEALTH_SECONDS)
    seconds = time.monotonic() - started_at
    context.report.check(f"started: all services SERVING after {seconds:.1f} s", ok=True)
    outcome = await context.services.call("users", "CountUsers", token=context.token_of("alice"))
    context.report.check(f"CountUsers: {outcome.code.name}", ok=outcome.code is grpc.StatusCode.OK)


async def _stop(context: TourContext, control: Control) -> None:
    stopped_at = time.monotonic()
    await control.stop_database()
    await wait_for_health(context.profile, "users", serving=False, seconds=HEALTH_SECONDS)
    seconds = time.monotonic() - stopped_at
    context.report.check(f"stopped: UserService NOT_SERVING after {seconds:.1f} s", ok=True)
    outcome = await context.services.call(
        "users", "CountUsers", token=context.token_of("alice"), timeout=CALL_SECONDS
    )
    context.report.check(
        f"CountUsers: {outcome.code.name}: {outcome.message}",
        ok=outcome.code is grpc.StatusCode.UNAVAILABLE,
    )
    found = await asyncio.to_thread(check_health, context.profile, ["users"], "liveness", CALL_SECONDS)
    context.report.check(
        f"liveness of UserService: {found['users'].status}, so that an orchestrator does not restart it",
        ok=found["users"].status == "SERVING",
    )
