"""The matrix: every caller at every RPC, the code that the policy requires, and the code of the call."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from rich import box
from rich.table import Table
from rich.text import Text

from gatehouse.app.policy import PolicyRow
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome
from gatehouse.rpc import AccessRule
from gatehouse_testbed.tour.callers import Caller
from gatehouse_testbed.tour.services import ServiceClients

SHORT_CODES = {
    grpc.StatusCode.OK: "OK",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTH",
    grpc.StatusCode.PERMISSION_DENIED: "DENIED",
}
# Allowed, but invalid: RPCs that sample_requests does not have are called with an empty request.
EMPTY = "EMPTY"
_STYLES = {"OK": "green", "UNAUTH": "yellow", "DENIED": "blue", EMPTY: "green"}
# <part admin>
# Revoking a role that no user has changes nothing.
UNUSED_ROLE = "tour-unused-role"
# </part admin>


@dataclass(frozen=True, slots=True)
class SampleUser:
    """A user on whom the tour tries the RPCs; the calls do not change it."""

    user_id: str
    email: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One call of the matrix."""

    caller: Caller
    row: PolicyRow
    expected: grpc.StatusCode
    outcome: Outcome

    @property
    def ok(self) -> bool:
        """Whether the code is the expected one."""
        return self.outcome.code is self.expected

    @property
    def is_empty(self) -> bool:
        """Whether the rule allowed the call, and its empty request was invalid."""
        return self.ok and self.outcome.code in _EMPTY_REQUEST

    def __str__(self) -> str:
        return (
            f"{self.row.name} by {self.caller.name}: expected {self.expected.name}, got "
            f"{self.outcome.code.name} ({self.outcome.message})"
        )


REFUSALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
# How an RPC that allows the call can end if its request is empty.
_EMPTY_REQUEST = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})


def expected_code(rule: AccessRule, caller: Caller, now: float) -> grpc.StatusCode:
    """Return the code that an access rule requires for a caller.

    Deliberately independent of the code that the services run.

    Args:
        rule: The rule.
        caller: The caller.
        now: Seconds since the epoch.
    """
    if rule.public:
        return grpc.StatusCode.OK
    if not caller.valid:
        return grpc.StatusCode.UNAUTHENTICATED
    if rule.scopes - caller.scopes or (rule.roles and not rule.roles & caller.roles):
        return grpc.StatusCode.PERMISSION_DENIED
    login_age = now - float(caller.claims.get("auth_time", 0))
    acr_missing = bool(rule.acr) and caller.claims.get("acr") != rule.acr
    if acr_missing or (rule.max_age is not None and login_age > rule.max_age):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.OK


def sample_requests(sample: SampleUser, caller: Caller) -> Mapping[str, list[dict[str, Any]]]:
    """Return valid requests by RPC, so that the status code depends only on the caller.

    RPCs that are not listed are called with an empty request.
    """
    user = {"user_id": sample.user_id}
    row = {"row_number": 1, "email": sample.email, "display_name": sample.display_name}
    new = {"email": f"tour-{uuid.uuid4()}@example.test", "display_name": f"Created by {caller.name}"}
    return {
        "GetUser": [user],
        "ListUsers": [{"page_size": 1}],
        "LookupUsers": [user],
        "CreateUser": [{"user": new}],
        "UpdateUser": [{"user": user | {"display_name": sample.display_name}}],
        "ImportUsers": [row],
        "DeleteUser": [{"user_id": str(uuid.uuid4()), "allow_missing": True}],
        # <part admin>
        "ManageRoles": [user | {"revoke_roles": [UNUSED_ROLE]}],
        # </part admin>
    }


async def run_matrix(
    services: ServiceClients,
    callers: Sequence[Caller],
    rows: Sequence[PolicyRow],
    sample: SampleUser,
    on_progress: Callable[[int], None],
) -> list[Cell]:
    """Call every RPC as every caller: one RPC after the other, all callers at once.

    Args:
        services: The services.
        callers: The callers.
        rows: RPCs and their rules.
        sample: The user in the requests.
        on_progress: Called with the number of calls just made.
    """

    async def call(caller: Caller, row: PolicyRow) -> Cell:
        requests = sample_requests(sample, caller).get(row.method)
        expected = expected_code(row.rule, caller, time.time())
        outcome = await services.call(row.service, row.method, requests or [{}], token=caller.token)
        if requests is None and expected is grpc.StatusCode.OK and outcome.code in _EMPTY_REQUEST:
            expected = outcome.code
        return Cell(caller, row, expected, outcome)

    cells: list[Cell] = []
    for row in rows:
        cells += await asyncio.gather(*(call(caller, row) for caller in callers))
        on_progress(len(callers))
    return cells


def matrix_view(cells: Sequence[Cell], callers: Sequence[Caller]) -> Table:
    """Draw the matrix: RPCs down, callers across, the code in each cell."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    table.add_column("", no_wrap=True)
    for caller in callers:
        table.add_column(caller.name.replace(" ", "\n").replace("-", "-\n"), no_wrap=True, vertical="bottom")
    by_position = {(cell.row.name, cell.caller.name): cell for cell in cells}
    previous = ""
    for row in dict.fromkeys(cell.row for cell in cells):
        if row.service != previous:
            if previous:
                table.add_section()
            table.add_row(Text(SERVICES[row.service].descriptor.name, "dim"))
            previous = row.service
        table.add_row(f"  {row.method}", *(_code(by_position[row.name, c.name]) for c in callers))
    return table


def rpcs_that_nobody_may_call(cells: Sequence[Cell]) -> list[str]:
    """Return the names of RPCs whose rule denies all callers of the matrix."""
    allowed = {cell.row.name for cell in cells if cell.expected not in REFUSALS}
    return list(dict.fromkeys(cell.row.name for cell in cells if cell.row.name not in allowed))


def _code(cell: Cell) -> Text:
    code = SHORT_CODES.get(cell.outcome.code, cell.outcome.code.name)
    if cell.is_empty:
        code = EMPTY
    return Text(code, _STYLES.get(code, "")) if cell.ok else Text(f"!{code}", "bold white on red")
