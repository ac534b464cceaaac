"""A tour of a running system from the outside, through its public interfaces: what holds, what does not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from rich.console import Console

from gatehouse.client.issuer import issuer_http, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse.settings import environment
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.files import read_users, realm_file, users_file
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.tour.callers import BRIEF, Desk
from gatehouse_testbed.tour.context import Control, Visit
from gatehouse_testbed.tour.matrix import Calls
from gatehouse_testbed.tour.metrics import fetch_figures
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tour.steps import STEPS, import_users
from gatehouse_testbed.tracing.spans import Span


class Tour:
    """Runs the steps.

    Args:
        profile: The system.
        console: Where it is shown.
        control: Whoever runs the processes; None leaves out the steps that need it.
    """

    def __init__(self, profile: Profile, console: Console, control: Control | None = None) -> None:
        self._profile = profile
        self._control = control
        self._report = Report(console)
        self.spans: Sequence[Span] = ()

    async def run(self) -> bool:
        """Runs the tour; returns whether everything was as promised.

        Raises:
            DemoError: It cannot even begin.
            ConfigurationError: The profile lacks something.
            OAuthError: The issuer refuses, or is away.
        """
        began = time.monotonic()
        async with self._visit() as visit:
            for title, step in STEPS:
                self._report.step(title)
                try:
                    await step(visit)
                except DemoError as error:
                    self._report.check(str(error), good=False)
            self.spans = visit.spans
        self._report.summary(time.monotonic() - began)
        return not self._report.faults

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Visit]:
        realm = load_realm(realm_file(), environment())
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(issuer_http(self._profile))
            desk = Desk(
                await stack.enter_async_context(open_issuer_client(self._profile)), self._profile, realm
            )
            calls = await stack.enter_async_context(Calls(self._profile))
            yield Visit(
                profile=self._profile,
                report=self._report,
                realm=realm,
                control=self._control,
                http=http,
                calls=calls,
                desk=desk,
                stack=stack,
                # First, so that it has run out when it is needed.
                brief=await desk.of_client(BRIEF),
                before=await fetch_figures(http, self._profile.metrics),
            )


async def fill(profile: Profile) -> None:
    """Imports the repository's users into a system.

    Raises:
        DemoError: It is refused.
    """
    realm = load_realm(realm_file(), environment())
    async with open_issuer_client(profile) as tokens, Calls(profile) as calls:
        desk = Desk(tokens, profile, realm)
        await import_users(calls, desk, read_users(users_file()), lambda _: None)
