"""Every caller at every RPC: what the policy promises, what really came back, and where they differ."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import json_format, message_factory
from rich import box
from rich.table import Table
from rich.text import Text

from gatehouse.app.policy import PolicyRow
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_once, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method
from gatehouse.rpc import AccessRule
from gatehouse_testbed.tour.callers import Caller

SHORT = {
    grpc.StatusCode.OK: "OK",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTH",
    grpc.StatusCode.PERMISSION_DENIED: "DENIED",
}
_STYLES = {"OK": "green", "UNAUTH": "yellow", "DENIED": "blue"}
# Nobody holds it; to take it from somebody changes nothing.
NO_ROLE = "tour-nobody-holds-this"


@dataclass(frozen=True, slots=True)
class Sample:
    """A user on whom the tour tries the RPCs; what it changes, it leaves as it was."""

    user_id: str
    email: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One call: who, what, what was promised, what came back."""

    caller: Caller
    row: PolicyRow
    promised: grpc.StatusCode
    outcome: Outcome

    @property
    def differs(self) -> bool:
        """Whether it came out otherwise than promised."""
        return self.outcome.code is not self.promised

    def __str__(self) -> str:
        return (
            f"{self.row.name} by {self.caller.name}: the policy promises {self.promised.name}, "
            f"and it was {self.outcome.code.name} ({self.outcome.message})"
        )


def promised(rule: AccessRule, caller: Caller, now: float) -> grpc.StatusCode:
    """Returns the code that the rule of an RPC promises to a caller.

    Worked out here anew from the rule and the claims, and not by the code that the services run.

    Args:
        rule: The rule.
        caller: Who calls.
        now: Seconds since the epoch.
    """
    if rule.public:
        return grpc.StatusCode.OK
    if not caller.good:
        return grpc.StatusCode.UNAUTHENTICATED
    if rule.scopes - caller.scopes or (rule.roles and not rule.roles & caller.roles):
        return grpc.StatusCode.PERMISSION_DENIED
    age = now - float(caller.claims.get("auth_time", 0))
    too_weak = bool(rule.acr) and caller.claims.get("acr") != rule.acr
    if too_weak or (rule.max_age is not None and age > rule.max_age):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.OK


def requests(sample: Sample, caller: Caller) -> Mapping[str, list[dict[str, Any]]]:
    """Returns, by RPC, requests that are good in every respect, so that only the caller decides."""
    one = {"user_id": sample.user_id}
    row = {"row_number": 1, "email": sample.email, "display_name": sample.display_name}
    new = {"email": f"tour-{uuid.uuid4()}@example.test", "display_name": f"Made by {caller.name}"}
    return {
        "GetUser": [one],
        "ListUsers": [{"page_size": 1}],
        "LookupUsers": [one],
        "CreateUser": [{"user": new}],
        "UpdateUser": [{"user": one | {"display_name": sample.display_name}}],
        "ImportUsers": [row],
        "DeleteUser": [{"user_id": str(uuid.uuid4()), "allow_missing": True}],
        "ManageRoles": [one | {"revoke_roles": [NO_ROLE]}],
    }


class Calls:
    """Channels to the services, and calls over them.

    Args:
        profile: Where the services are.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._stack = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        for name in SERVICES:
            channel = await self._stack.enter_async_context(open_channel(self._profile, name))
            self._channels[name] = channel
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def channel(self, service: str) -> grpc.aio.Channel:
        """Returns the channel to a service."""
        return self._channels[service]

    async def call(
        self,
        service: str,
        method: str,
        data: Sequence[dict[str, Any]] = ({},),
        *,
        token: str | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float = 10.0,
    ) -> Outcome:
        """Makes one call; of a stream that has no end the first answer is enough."""
        found = find_method(SERVICES[service].descriptor, method)
        kind = message_factory.GetMessageClass(found.input_type)
        messages = [json_format.ParseDict(item, kind()) for item in data]
        return await call_once(
            self._channels[service],
            found,
            messages,
            token=token,
            limit=1 if found.server_streaming and not found.client_streaming else 0,
            timeout=timeout,
            metadata=metadata,
        )


async def run_matrix(
    calls: Calls,
    callers: Sequence[Caller],
    rows: Sequence[PolicyRow],
    sample: Sample,
    told: Callable[[int], None],
) -> list[Cell]:
    """Calls every RPC as every caller, one RPC after the other, its callers side by side.

    Args:
        calls: Where to call.
        callers: Who calls.
        rows: The policy.
        sample: On whom.
        told: Told of each number of calls that are done.
    """
    cells: list[Cell] = []
    for row in rows:
        cells += await asyncio.gather(*(_cell(calls, caller, row, sample) for caller in callers))
        told(len(callers))
    return cells


async def _cell(calls: Calls, caller: Caller, row: PolicyRow, sample: Sample) -> Cell:
    data = requests(sample, caller).get(row.method, [{}])
    expected = promised(row.rule, caller, time.time())
    outcome = await calls.call(row.service, row.method, data, token=caller.token)
    return Cell(caller, row, expected, outcome)


def matrix_view(cells: Sequence[Cell], callers: Sequence[Caller]) -> Table:
    """Draws the matrix: RPCs down, callers across, the code in each cell."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    table.add_column("", no_wrap=True)
    for caller in callers:
        table.add_column(caller.name.replace(" ", "\n").replace("-", "-\n"), no_wrap=True, vertical="bottom")
    at = {(cell.row.name, cell.caller.name): cell for cell in cells}
    previous = ""
    for row in dict.fromkeys(cell.row for cell in cells):
        if row.service != previous:
            if previous:
                table.add_section()
            table.add_row(Text(SERVICES[row.service].descriptor.name, "dim"))
            previous = row.service
        table.add_row(f"  {row.method}", *(_mark(at[row.name, c.name]) for c in callers))
    return table


def _mark(cell: Cell) -> Text:
    name = SHORT.get(cell.outcome.code, cell.outcome.code.name)
    if cell.differs:
        return Text(f"!{name}", "bold white on red")
    return Text(name, _STYLES.get(name, ""))
