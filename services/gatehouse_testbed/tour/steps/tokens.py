"""Revoke a token."""

from __future__ import annotations

import asyncio
import time

import grpc

from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.matrix import UNUSED_ROLE

MARGIN_SECONDS = 3.0
_POLL_SECONDS = 0.05


async def revoke_token(context: TourContext) -> None:
    """Revoke a token of alice: an online rule denies it at once, other rules within the revocation budget."""
    services, check = context.services, context.report.check
    token = await context.tokens.of_user("alice")
    sample = await context.sample_user()
    budget = context.profile.revocation_budget_seconds
    before = await services.call("users", "CountUsers", token=token)
    check(f"CountUsers with a new token of alice: {before.code.name}", ok=before.code is grpc.StatusCode.OK)
    await context.tokens.issuer.revoke(token)
    revoked_at = time.monotonic()
    change = {"user_id": sample.user_id, "revoke_roles": [UNUSED_ROLE]}
    online = await services.call("admin", "ManageRoles", [change], token=token)
    check(
        f"the token is revoked; ManageRoles, whose rule is checked online: {online.code.name} at once "
        f"({online.reason})",
        ok=online.code is grpc.StatusCode.UNAUTHENTICATED,
    )
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
