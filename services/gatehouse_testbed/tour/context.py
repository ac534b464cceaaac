"""What the steps of a tour share: where they ask, what they say, what one finds for another."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import httpx

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.issuer import Realm
from gatehouse_testbed.tour.callers import Caller, Desk
from gatehouse_testbed.tour.matrix import Calls, Cell, Sample
from gatehouse_testbed.tour.metrics import Figures
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tracing.spans import Span


class Control(Protocol):
    """What only whoever runs the processes can do."""

    async def stop_database(self) -> None:
        """Stops PostgreSQL; its data stays."""
        ...

    async def start_database(self) -> None:
        """Starts PostgreSQL again."""
        ...


@dataclass(slots=True)
class Visit:
    """A tour under way.

    Attributes:
        profile: The system.
        report: Where it is shown.
        realm: What the realm file promises.
        control: Whoever runs the processes; None leaves out what needs it.
        http: Client that trusts what the profile trusts.
        calls: The services.
        desk: The issuer.
        stack: What lasts as long as the tour.
        brief: A token that lives for one second, obtained first.
        before: What the services had counted when the tour began.
        callers: Who calls; from the matrix on.
        cells: What came back; from the matrix on.
        spans: The trace that was shown.
    """

    profile: Profile
    report: Report
    realm: Realm
    control: Control | None
    http: httpx.AsyncClient
    calls: Calls
    desk: Desk
    stack: AsyncExitStack
    brief: str = field(repr=False)
    before: dict[str, Figures]
    callers: list[Caller] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def token_of(self, name: str) -> str:
        """Returns the token of a caller of the matrix.

        Raises:
            DemoError: There is none.
        """
        for caller in self.callers:
            if caller.name == name and caller.token is not None:
                return caller.token
        raise DemoError(f"{name}: has no token, because the matrix of callers was not made")

    async def sample(self) -> Sample:
        """Returns the first user, for calls that need one.

        Raises:
            DemoError: There is none to be had.
        """
        outcome = await self.calls.call(
            "users", "ListUsers", [{"page_size": 1}], token=self.token_of("alice")
        )
        if outcome.code is not grpc.StatusCode.OK or not outcome.responses[0].users:
            raise DemoError(f"ListUsers by alice: {outcome.code.name} {outcome.message}: there is no user")
        user = outcome.responses[0].users[0]
        return Sample(user.user_id, user.email, user.display_name)
