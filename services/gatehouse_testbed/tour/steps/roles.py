"""The tour's step on roles: given here it is in the next token, taken it is gone at the next online check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from gatehouse.client.calls import Outcome
from gatehouse.client.issuer import decode
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.matrix import NO_ROLE

ROLE = "admin"
DELIVERY_SECONDS = 10.0
T = TypeVar("T")
_DENIED = grpc.StatusCode.PERMISSION_DENIED


async def roles(visit: Visit) -> None:
    """Has alice give bob a role and take it back, and looks at what his tokens are worth.

    Raises:
        DemoError: It cannot even begin.
    """
    calls, desk, check = visit.calls, visit.desk, visit.report.check
    alice, old = await desk.of_user("alice"), await desk.of_user("bob")
    outcome = await calls.call("users", "GetCurrentUser", token=old)
    if outcome.code is not grpc.StatusCode.OK:
        raise DemoError(f"GetCurrentUser by bob: {outcome.code.name} {outcome.message}")
    bob = outcome.responses[0].user_id

    async def manage(token: str, **change: list[str]) -> Outcome:
        return await calls.call("admin", "ManageRoles", [{"user_id": bob, **change}], token=token)

    try:
        given = await manage(alice, grant_roles=[ROLE])
        new, seconds = await _until(lambda: desk.of_user("bob"), _has_scope)
        check(
            f"alice gives bob the role {ROLE}: {given.code.name}; "
            + (
                f"the token that he gets {seconds:.1f} s later carries the scope {ROLE}"
                if _has_scope(new)
                else f"bob's tokens still lack the scope {ROLE} after {seconds:.1f} s; is "
                "GATEHOUSE_ROLE_SYNC__ADMIN_URL set for AdminService?"
            ),
            good=_has_scope(new),
        )
        for token, text, code in (
            (old, "his token of before", _DENIED),
            (new, "his new one", grpc.StatusCode.OK),
        ):
            stats = await calls.call("admin", "GetStats", token=token)
            check(f"GetStats with {text}: {stats.code.name}", good=stats.code is code)
    finally:
        taken = await manage(alice, revoke_roles=[ROLE])
    refused, seconds = await _until(lambda: manage(new, revoke_roles=[NO_ROLE]), lambda o: o.code is _DENIED)
    check(
        f"taken back: {taken.code.name}; ManageRoles, which asks online for the role, with his new token "
        f"{seconds:.1f} s later: {refused.code.name} ({refused.reason})",
        good=refused.code is _DENIED,
    )
    found = await desk.tokens.introspect(new)
    check(
        f"though that token is active and says {ROLE}: scopes are of when it was made, roles are today's",
        good=found.get("active") is True and ROLE in str(found.get("scope")).split(),
    )


def _has_scope(token: str) -> bool:
    return ROLE in str(decode(token)["claims"].get("scope", "")).split()


async def _until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> tuple[T, float]:
    """Asks until the answer is good, or DELIVERY_SECONDS are over; returns it, and how long that took."""
    began = time.monotonic()
    while True:
        answer = await ask()
        seconds = time.monotonic() - began
        if good(answer) or seconds > DELIVERY_SECONDS:
            return answer, seconds
        await asyncio.sleep(0.05)
