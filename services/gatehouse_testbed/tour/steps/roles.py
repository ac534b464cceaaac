"""Grant a role and revoke it: the scopes of tokens follow at the next token, an online rule at once."""

# <part admin/>

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from gatehouse.client.calls import Outcome
from gatehouse.client.issuer import decode
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.matrix import UNUSED_ROLE

ROLE = "admin"
DELIVERY_SECONDS = 10.0
T = TypeVar("T")
_DENIED = grpc.StatusCode.PERMISSION_DENIED


async def change_role(context: TourContext) -> None:
    """Let alice grant bob a role and revoke it, and check what his tokens allow.

    Raises:
        TestbedError: bob cannot be looked up.
    """
    services, tokens, check = context.services, context.tokens, context.report.check
    alice, old_token = await tokens.of_user("alice"), await tokens.of_user("bob")
    outcome = await services.call("users", "GetCurrentUser", token=old_token)
    if outcome.code is not grpc.StatusCode.OK:
        raise TestbedError(f"GetCurrentUser by bob: {outcome.code.name} {outcome.message}")
    bob = outcome.responses[0].user_id

    async def manage_roles(token: str, **change: list[str]) -> Outcome:
        return await services.call("admin", "ManageRoles", [{"user_id": bob, **change}], token=token)

    try:
        granted = await manage_roles(alice, grant_roles=[ROLE])
        new_token, seconds = await _repeat_until(lambda: tokens.of_user("bob"), _has_scope)
        check(
            f"alice grants bob the role {ROLE}: {granted.code.name}; "
            + (
                f"his next token, {seconds:.1f} s later, has the scope {ROLE}"
                if _has_scope(new_token)
                else f"his tokens still lack the scope {ROLE} after {seconds:.1f} s; check that "
                "GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL is set for AdminService"
            ),
            ok=_has_scope(new_token),
        )
        for token, text, code in (
            (old_token, "the token from before", _DENIED),
            (new_token, "the new token", grpc.StatusCode.OK),
        ):
            stats = await services.call("admin", "GetStats", token=token)
            check(f"GetStats by bob with {text}: {stats.code.name}", ok=stats.code is code)
    finally:
        revoked = await manage_roles(alice, revoke_roles=[ROLE])
    denied, seconds = await _repeat_until(
        lambda: manage_roles(new_token, revoke_roles=[UNUSED_ROLE]), lambda outcome: outcome.code is _DENIED
    )
    check(
        f"alice revokes the role: {revoked.code.name}; ManageRoles (checked online) with bob's new token "
        f"{seconds:.1f} s later: {denied.code.name} ({denied.reason})",
        ok=denied.code is _DENIED,
    )
    found = await tokens.issuer.introspect(new_token)
    check(
        f"that token is still active and has the scope {ROLE}: a token keeps its scopes; an online check "
        "reads the current roles",
        ok=found.get("active") is True and ROLE in str(found.get("scope")).split(),
    )


def _has_scope(token: str) -> bool:
    return ROLE in str(decode(token)["claims"].get("scope", "")).split()


async def _repeat_until(action: Callable[[], Awaitable[T]], done: Callable[[T], bool]) -> tuple[T, float]:
    """Repeat an action until `done`, at most for DELIVERY_SECONDS; return its result and the time."""
    started_at = time.monotonic()
    while True:
        result = await action()
        seconds = time.monotonic() - started_at
        if done(result) or seconds > DELIVERY_SECONDS:
            return result, seconds
        await asyncio.sleep(0.05)
