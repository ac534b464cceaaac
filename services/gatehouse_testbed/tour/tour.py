"""Run the steps of the tour."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from rich.console import Console

from gatehouse.app.services import SERVICES
from gatehouse.client.issuer import issuer_http, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse.settings import environment
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import realm_file
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.tour.callers import SHORT_LIVED, TourTokens
from gatehouse_testbed.tour.context import Control, TourContext
from gatehouse_testbed.tour.metrics import fetch_metrics
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tour.services import open_services
from gatehouse_testbed.tour.steps import STEPS

SERVING_SECONDS = 20.0


class Tour:
    """Runs all steps.

    Args:
        profile: Addresses, clients and users.
        console: Where the tour is printed.
        control: Control over the processes; None skips the steps that need it.
    """

    def __init__(self, profile: Profile, console: Console, control: Control | None = None) -> None:
        self._profile = profile
        self._control = control
        self._report = Report(console)

    async def run(self) -> bool:
        """Run the tour; return whether all checks passed.

        Raises:
            TestbedError: A service is not SERVING, or a step that later ones need is impossible.
            ConfigurationError: The profile lacks something.
            OAuthError: The issuer refuses or is unavailable.
        """
        started_at = time.monotonic()
        async with self._context() as context:
            for service in SERVICES:
                await wait_for_health(self._profile, service, serving=True, seconds=SERVING_SECONDS)
            context.started_at = await _server_time(context)
            for title, step in STEPS:
                self._report.step(title)
                try:
                    await step(context)
                except TestbedError as error:
                    self._report.check(str(error), ok=False)
        self._report.summary(time.monotonic() - started_at)
        return not self._report.failures

    @asynccontextmanager
    async def _context(self) -> AsyncIterator[TourContext]:
        realm = load_realm(realm_file(), environment())
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(issuer_http(self._profile))
            issuer = await stack.enter_async_context(open_issuer_client(self._profile))
            tokens = TourTokens(issuer, self._profile, realm)
            yield TourContext(
                profile=self._profile,
                report=self._report,
                realm=realm,
                control=self._control,
                http=http,
                services=await stack.enter_async_context(open_services(self._profile)),
                tokens=tokens,
                stack=stack,
                short_lived_token=await tokens.of_client(SHORT_LIVED),
                metrics=await fetch_metrics(http, self._profile.metrics),
            )


async def _server_time(context: TourContext) -> str:
    token = await context.tokens.of_user("alice")
    outcome = await context.services.call("users", "CountUsers", token=token)
    if outcome.code is not grpc.StatusCode.OK:
        raise TestbedError(f"CountUsers by alice: {outcome.code.name}: {outcome.message}")
    return str(outcome.responses[0].snapshot_time.ToJsonString())
