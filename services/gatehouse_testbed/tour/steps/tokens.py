"""Revoke a token."""

from __future__ import annotations

import asyncio
import time

import grpc

from gatehouse_testbed.tour.context import TourContext

# <part admin>
from gatehouse_testbed.tour.matrix import UNUSED_ROLE

# </part admin>

MARGIN_SECONDS = 3.0
_POLL_SECONDS = 0.05


async def revoke_token(context: TourContext) -> None:
    """Revoke a token of alice: an online rule denies it at once, other rules within the revocation budget."""
    services, check = context.services, context.report.check
    budget = context.profile.revocation_budget_seconds
    if budget is None:
        context.report.note(
            "skipped: the services do not ask the issuer, so a token is valid until it expires"
        )
        return
    token = await context.tokens.of_user("alice")
    before = await services.call("users", "CountUsers", token=token)
    check(f"CountUsers with a new token of alice: {before.code.name}", ok=before.code is grpc.StatusCode.OK)
    await context.tokens.issuer.revoke(token)
    revoked_at = time.monotonic()
    # <part admin>
    sample = await context.sample_user()
    change = {"user_id": sample.user_id, "revoke_roles": [UNUSED_ROLE]}
    online = await services.call("admin", "ManageRoles", [change], token=token)
    check(
        f"the token is revoked; ManageRoles, whose rule is checked online: {online.code.name} at once "
        f"({online.reason})",
        ok=online.code is grpc.StatusCode.UNAUTHENTICATED,
    )
    # </part admin>
    while True:
        after = await services.call("users", "CountUsers", token=token)
        seconds = time.monotonic() - revoked_at
        if after.code is not grpc.StatusCode.OK or seconds > budget + MARGIN_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    check(
        f"CountUsers, with a revocation budget of {budget:g} s: {after.code.name} after {seconds:.1f} s",
        ok=after.code is grpc.StatusCode.UNAUTHENTICATED,
    )
