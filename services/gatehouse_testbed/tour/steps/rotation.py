"""Rotate the signing key of the issuer while callers call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from gatehouse.client.issuer import decode
from gatehouse_testbed.issuer_admin import IssuerAdmin
from gatehouse_testbed.tour.callers import CLIENTS, TourTokens
from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.services import ServiceClients

ROTATION_SECONDS = 20.0
# A service fetches the keys for an unknown key id at most once in 30 s.
COOLDOWN_SECONDS = 31.0
LOAD_WORKERS = 6
LOAD_CALLS = 60
CALLS_PER_TOKEN = 5


async def rotate_key(context: TourContext) -> None:
    """Add a signing key while callers call, and check that no call fails."""
    if context.profile.issuer_admin_password is None:
        context.report.note("skipped: the profile has no issuer_admin_password")
        return
    admin = IssuerAdmin(context.http, context.profile)
    since = await admin.seconds_since_rotation()
    if (remaining := remaining_cooldown(since)) > 0:
        context.report.note(
            f"another tour rotated the key {since:.0f} s ago, and services fetch unknown keys once in 30 s: "
            f"waiting {remaining:.0f} s"
        )
        await asyncio.sleep(remaining)
    async with _load(context.services, context.tokens) as load:
        await load.wait_until(lambda: load.calls >= LOAD_CALLS)
        old_keys = set(load.succeeded)
        await admin.rotate()
        await load.wait_until(lambda: load.succeeded_without(old_keys) >= LOAD_CALLS)
    with_new_key = load.succeeded_without(old_keys)
    context.report.check(
        f"{load.calls} calls by {LOAD_WORKERS} callers, {with_new_key} with tokens signed by the new key",
        ok=with_new_key >= LOAD_CALLS,
    )
    failures = ", ".join(f"{number} {reason}" for reason, number in load.failed.items())
    context.report.check(f"failed calls: {failures or 'none'}", ok=not failures)


def remaining_cooldown(since_rotation: float | None) -> float:
    """Return how many seconds to wait before services look for another new key.

    Args:
        since_rotation: Seconds since the last rotation, None if there was none.
    """
    return 0.0 if since_rotation is None else max(0.0, COOLDOWN_SECONDS - since_rotation)


class _Load:
    """Callers that call without pause, with a new token every few calls.

    Attributes:
        calls: Number of calls.
        succeeded: Number of successful calls, by the key id of their token.
        failed: Number of failed calls, by code and reason.
    """

    def __init__(self, services: ServiceClients, tokens: TourTokens) -> None:
        self._services = services
        self._tokens = tokens
        self._changed = asyncio.Event()
        self.stopping = False
        self.calls = 0
        self.succeeded: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def succeeded_without(self, keys: set[str]) -> int:
        """Return the number of successful calls with tokens signed by other keys than `keys`."""
        return sum(number for key, number in self.succeeded.items() if key not in keys)

    async def run(self) -> None:
        """Call until `stopping` is set, so that no call is interrupted."""
        while not self.stopping:
            token = await self._tokens.of_client(CLIENTS[0])
            key = str(decode(token)["header"].get("kid"))
            for _ in range(CALLS_PER_TOKEN):
                outcome = await self._services.call("users", "CountUsers", token=token)
                self.calls += 1
                if outcome.code is grpc.StatusCode.OK:
                    self.succeeded[key] += 1
                else:
                    self.failed[f"{outcome.code.name} {outcome.reason}"] += 1
                self._changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, at most ROTATION_SECONDS."""
        try:
            async with asyncio.timeout(ROTATION_SECONDS):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def _load(services: ServiceClients, tokens: TourTokens) -> AsyncIterator[_Load]:
    load = _Load(services, tokens)
    tasks = [asyncio.create_task(load.run()) for _ in range(LOAD_WORKERS)]
    try:
        yield load
    finally:
        load.stopping = True
        await asyncio.gather(*tasks)
