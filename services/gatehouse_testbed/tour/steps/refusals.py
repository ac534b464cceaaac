"""Every caller at every RPC, and why those were refused who were."""

from __future__ import annotations

import grpc
from rich import box
from rich.table import Table

from gatehouse.app.policy import policy_rows
from gatehouse_testbed.tour import callers as who
from gatehouse_testbed.tour.callers import Caller
from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.matrix import SHORT, Cell, matrix_view, run_matrix

_LEGEND = (
    "UNAUTH   UNAUTHENTICATED: no token, or none that counts here",
    "DENIED   PERMISSION_DENIED: a good token that may not do this",
    "!        before a code: it is another than the policy promises to this caller",
    "tampered is bob's token with every scope written into it; expired lived for one second",
)


async def matrix(visit: Visit) -> None:
    """Calls every RPC as every caller and holds each answer to the policy."""
    visit.callers = await _callers(visit)
    rows, sample = policy_rows(), await visit.sample()
    with visit.report.progress("calls", len(rows) * len(visit.callers)) as told:
        visit.cells = await run_matrix(visit.calls, visit.callers, rows, sample, told)
    visit.report.show(matrix_view(visit.cells, visit.callers))
    for line in _LEGEND:
        visit.report.note(line)
    for caller in visit.callers:
        if caller.good:
            _check_rights(visit, caller)
    differing = [cell for cell in visit.cells if cell.differs]
    for cell in differing:
        visit.report.check(str(cell), good=False)
    if not differing:
        visit.report.check(f"{len(visit.cells)} calls, each answered as the policy promises", good=True)


def _check_rights(visit: Visit, caller: Caller) -> None:
    """Holds the scopes of a token to the realm file, since the matrix takes them as they are."""
    held = " ".join(sorted(caller.scopes)) or "no scope"
    wrong = [f"{scope}, which the realm file does not promise" for scope in sorted(caller.excess)]
    wrong += [f"not {scope}, which the realm file promises" for scope in sorted(caller.lack)]
    visit.report.check(f"{caller.name} holds {'; '.join(wrong) or held}", good=not wrong)


async def _callers(visit: Visit) -> list[Caller]:
    desk, realm = visit.desk, visit.realm
    bob, alice, carol = [await desk.user(name) for name in who.USERS]
    clients = [await desk.client(name) for name in who.CLIENTS]
    found = [
        Caller("nobody"),
        Caller("expired", visit.brief),
        Caller("wrong audience", await desk.of_client(who.ELSEWHERE)),
        Caller("wrong issuer", await who.wrong_issuer_token(visit.stack, realm)),
        Caller("tampered", who.tampered(bob.token or "", [s.name for s in realm.scopes.values()])),
        bob,
        alice,
        carol,
        *clients,
    ]
    await desk.until_inactive(visit.brief, who.EXPIRY_SECONDS)
    return found


async def reasons(visit: Visit) -> None:
    """Shows one refusal of each kind, and checks that none is without its reasons."""
    refused = [cell for cell in visit.cells if cell.outcome.code is not grpc.StatusCode.OK]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for head in ("caller", "RPC", "code", "ErrorInfo", "www-authenticate"):
        table.add_column(head, overflow="fold")
    kinds: dict[tuple[grpc.StatusCode, str], Cell] = {}
    for cell in refused:
        kinds.setdefault((cell.outcome.code, cell.outcome.reason), cell)
    for cell in kinds.values():
        outcome = cell.outcome
        table.add_row(
            cell.caller.name,
            cell.row.method,
            SHORT.get(outcome.code, outcome.code.name),
            outcome.reason,
            outcome.challenge,
        )
    visit.report.show(table)
    told = sum(1 for cell in refused if cell.outcome.reason and cell.outcome.challenge)
    visit.report.check(
        f"{told} of {len(refused)} refusals say why, and what would be enough", good=told == len(refused)
    )
