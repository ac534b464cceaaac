"""State that the steps of a tour share."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import httpx

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer import Realm
from gatehouse_testbed.tour.callers import Caller, TourTokens
from gatehouse_testbed.tour.matrix import Cell, SampleUser
from gatehouse_testbed.tour.metrics import Metrics
from gatehouse_testbed.tour.report import Report
from gatehouse_testbed.tour.services import ServiceClients


class Control(Protocol):
    """Control over the processes of the system."""

    async def stop_database(self) -> None:
        """Stop PostgreSQL; its data stays."""
        ...

    async def start_database(self) -> None:
        """Start PostgreSQL again."""
        ...


@dataclass(slots=True)
class TourContext:
    """A tour in progress.

    Attributes:
        profile: Addresses, clients and users.
        report: Output.
        realm: The realm file.
        control: Control over the processes; None skips the steps that need it.
        http: HTTP client that trusts the authority of the profile.
        services: Channels to the services.
        tokens: Tokens of the callers.
        stack: Closed at the end of the tour.
        short_lived_token: Valid for one second; requested first, so that it has expired when it is used.
        metrics: Metrics of each service at the start of the tour.
        started_at: Time of UserService at the start of the tour, in RFC 3339 format.
        imported: Emails of the users that were imported.
        callers: Set by the matrix.
        cells: Set by the matrix.
    """

    profile: Profile
    report: Report
    realm: Realm
    control: Control | None
    http: httpx.AsyncClient
    services: ServiceClients
    tokens: TourTokens
    stack: AsyncExitStack
    short_lived_token: str = field(repr=False)
    metrics: dict[str, Metrics]
    started_at: str = ""
    imported: frozenset[str] = frozenset()
    callers: list[Caller] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def token_of(self, name: str) -> str:
        """Return the token of a caller of the matrix.

        Raises:
            TestbedError: The matrix has no such caller.
        """
        for caller in self.callers:
            if caller.name == name and caller.token is not None:
                return caller.token
        raise TestbedError(f"{name}: no token, because the step with the matrix failed")

    async def sample_user(self) -> SampleUser:
        """Return the first user of the directory.

        Raises:
            TestbedError: There is none.
        """
        outcome = await self.services.call(
            "users", "ListUsers", [{"page_size": 1}], token=self.token_of("alice")
        )
        if outcome.code is not grpc.StatusCode.OK or not outcome.responses[0].users:
            raise TestbedError(f"ListUsers by alice returned no user: {outcome.code.name} {outcome.message}")
        user = outcome.responses[0].users[0]
        return SampleUser(user.user_id, user.email, user.display_name)
