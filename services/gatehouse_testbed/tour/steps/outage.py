"""PostgreSQL is stopped and started again: what readiness says, and what callers hear."""

from __future__ import annotations

import asyncio
import time

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.health import check_health
from gatehouse_testbed.health import until_health
from gatehouse_testbed.tour.context import Control, Visit

HEALTH_SECONDS = 15.0
CALL_SECONDS = 3.0


async def outage(visit: Visit) -> None:
    """Stops the database and starts it again, where somebody can."""
    if visit.control is None:
        visit.report.note("left out: nobody here can stop the database; `gatehouse demo` shows it")
        return
    try:
        await _stop(visit, visit.control)
    finally:
        began = time.monotonic()
        await visit.control.start_database()
    for service in SERVICES:
        await until_health(visit.profile, service, serving=True, seconds=HEALTH_SECONDS)
    visit.report.check(f"started: all three SERVING after {time.monotonic() - began:.1f} s", good=True)
    outcome = await visit.calls.call("users", "CountUsers", token=visit.token_of("alice"))
    visit.report.check(f"a call: {outcome.code.name}", good=outcome.code is grpc.StatusCode.OK)


async def _stop(visit: Visit, control: Control) -> None:
    began = time.monotonic()
    await control.stop_database()
    await until_health(visit.profile, "users", serving=False, seconds=HEALTH_SECONDS)
    visit.report.check(
        f"stopped: UserService says NOT_SERVING after {time.monotonic() - began:.1f} s", good=True
    )
    outcome = await visit.calls.call(
        "users", "CountUsers", token=visit.token_of("alice"), timeout=CALL_SECONDS
    )
    visit.report.check(
        f"a call: {outcome.code.name}: {outcome.message}",
        good=outcome.code is grpc.StatusCode.UNAVAILABLE,
    )
    asked = await asyncio.to_thread(check_health, visit.profile, ["users"], "liveness", CALL_SECONDS)
    visit.report.check(
        f"its liveness: {asked['users']}, so that nobody restarts it for this",
        good=asked["users"] == "SERVING",
    )
