"""A token is revoked; the key that signs all of them is rotated while calls go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from gatehouse.client.issuer import decode
from gatehouse_testbed.issuer_admin import IssuerAdmin
from gatehouse_testbed.tour.callers import CLIENTS, Desk
from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.matrix import NO_ROLE, Calls

MARGIN_SECONDS = 3.0
ROTATION_SECONDS = 20.0
# A service looks for a key that it does not know at most once in this time.
COOLDOWN_SECONDS = 31.0
LOAD_WORKERS = 6
LOAD_CALLS = 60
CALLS_PER_TOKEN = 5
_POLL_SECONDS = 0.05


async def revocation(visit: Visit) -> None:
    """Revokes a token of alice: at once where a rule asks online, within the budget elsewhere."""
    token = await visit.desk.of_user("alice")
    sample = await visit.sample()
    budget = visit.profile.revocation_budget_seconds
    before = await visit.calls.call("users", "CountUsers", token=token)
    visit.report.check(
        f"CountUsers with a new token of alice: {before.code.name}", good=before.code is grpc.StatusCode.OK
    )
    await visit.desk.tokens.revoke(token)
    began = time.monotonic()
    change = {"user_id": sample.user_id, "revoke_roles": [NO_ROLE]}
    online = await visit.calls.call("admin", "ManageRoles", [change], token=token)
    visit.report.check(
        f"revoked; the next call, ManageRoles, whose rule asks the issuer online: {online.code.name} "
        f"({online.reason})",
        good=online.code is grpc.StatusCode.UNAUTHENTICATED,
    )
    while True:
        after = await visit.calls.call("users", "CountUsers", token=token)
        seconds = time.monotonic() - began
        if after.code is not grpc.StatusCode.OK or seconds > budget + MARGIN_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    visit.report.check(
        f"CountUsers, whose rule lets an answer serve again for {budget:g} s: {after.code.name} after "
        f"{seconds:.1f} s",
        good=after.code is grpc.StatusCode.UNAUTHENTICATED,
    )


async def rotation(visit: Visit) -> None:
    """Makes a new signing key while callers call, and checks that none of them notices."""
    if visit.profile.issuer_admin_password is None:
        visit.report.note("left out: the profile has no issuer_admin_password")
        return
    admin = IssuerAdmin(visit.http, visit.profile)
    since = await admin.seconds_since_rotation()
    if (left := rest_seconds(since)) > 0:
        visit.report.note(
            f"another tour rotated it {since:.0f} s ago, and services look for an unknown key once in 30 s: "
            f"waiting {left:.0f} s"
        )
        await asyncio.sleep(left)
    async with _load(visit.calls, visit.desk) as load:
        await load.until(lambda: load.calls >= LOAD_CALLS)
        known = set(load.keys)
        await admin.rotate()
        await load.until(lambda: load.with_other_keys(known) >= LOAD_CALLS)
    fresh = load.with_other_keys(known)
    visit.report.check(
        f"{load.calls} calls by {LOAD_WORKERS} callers, {fresh} of them with tokens of the new key",
        good=fresh >= LOAD_CALLS,
    )
    failed = ", ".join(f"{number} {reason}" for reason, number in load.failures.items())
    visit.report.check(failed or "none failed", good=not failed)


def rest_seconds(since_rotation: float | None) -> float:
    """Returns how long to wait before a key is made that services will look for.

    Args:
        since_rotation: Seconds since the last rotation; None when there was none.
    """
    return 0.0 if since_rotation is None else max(0.0, COOLDOWN_SECONDS - since_rotation)


class _Load:
    """Callers that call all the time, each with a new token every few calls.

    Attributes:
        calls: How many there were.
        keys: Calls that went well, by `kid` of their token.
        failures: The others, by code and reason.
    """

    def __init__(self, calls: Calls, desk: Desk) -> None:
        self._calls = calls
        self._desk = desk
        self._moved = asyncio.Event()
        self.ended = False
        self.calls = 0
        self.keys: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def with_other_keys(self, known: set[str]) -> int:
        """Returns how many calls went well with tokens of keys that are not among `known`."""
        return sum(number for key, number in self.keys.items() if key not in known)

    async def work(self) -> None:
        """Calls until `ended` is set, so that none is cut off."""
        while not self.ended:
            token = await self._desk.of_client(CLIENTS[0])
            key = str(decode(token)["header"].get("kid"))
            for _ in range(CALLS_PER_TOKEN):
                outcome = await self._calls.call("users", "CountUsers", token=token)
                self.calls += 1
                if outcome.code is grpc.StatusCode.OK:
                    self.keys[key] += 1
                else:
                    self.failures[f"{outcome.code.name} {outcome.reason}"] += 1
                self._moved.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Waits until so much has happened, for ROTATION_SECONDS at most."""
        try:
            async with asyncio.timeout(ROTATION_SECONDS):
                while not reached():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def _load(calls: Calls, desk: Desk) -> AsyncIterator[_Load]:
    load = _Load(calls, desk)
    tasks = [asyncio.create_task(load.work()) for _ in range(LOAD_WORKERS)]
    try:
        yield load
    finally:
        load.ended = True
        await asyncio.gather(*tasks)
