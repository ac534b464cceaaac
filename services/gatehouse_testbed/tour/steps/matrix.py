"""Call every RPC as every caller, and show why calls were denied."""

from __future__ import annotations

import grpc
from rich import box
from rich.table import Table

from gatehouse.app.policy import policy_rows
from gatehouse_testbed.tour.callers import (
    CLIENTS,
    EXPIRY_SECONDS,
    OTHER_AUDIENCE,
    USERS,
    Caller,
    tampered,
    wrong_issuer_token,
)
from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.matrix import (
    EMPTY,
    REFUSALS,
    SHORT_CODES,
    Cell,
    matrix_view,
    rpcs_that_nobody_may_call,
    run_matrix,
)

_LEGEND = (
    "UNAUTH   UNAUTHENTICATED: no token, or one that is not accepted",
    "DENIED   PERMISSION_DENIED: a valid token without the scopes or the role that the rule requires",
    "!        marks a result that differs from what the rule requires",
    "tampered is bob's token with every scope written into it; expired was valid for one second",
)
_EMPTY = f"{EMPTY}    allowed; the request is empty, and so invalid (add one to sample_requests)"


async def call_matrix(context: TourContext) -> None:
    """Call every RPC as every caller and compare each code with the access rule."""
    context.callers = await _callers(context)
    rows, sample = policy_rows(), await context.sample_user()
    with context.report.progress("calls", len(rows) * len(context.callers)) as on_progress:
        context.cells = await run_matrix(context.services, context.callers, rows, sample, on_progress)
    context.report.show(matrix_view(context.cells, context.callers))
    for line in [*_LEGEND, _EMPTY] if any(cell.is_empty for cell in context.cells) else _LEGEND:
        context.report.note(line)
    for name in rpcs_that_nobody_may_call(context.cells):
        context.report.note(
            f"no user of the realm may call {name}: in the realm file, give a user what its rule requires"
        )
    for caller in context.callers:
        if caller.valid:
            _check_scopes(context, caller)
    wrong = [cell for cell in context.cells if not cell.ok]
    for cell in wrong:
        context.report.check(str(cell), ok=False)
    total = len(context.cells)
    right = total - len(wrong)
    context.report.check(f"{right} of {total} calls ended as their access rule requires", ok=not wrong)


def _check_scopes(context: TourContext, caller: Caller) -> None:
    """Compare the scopes of a token with the realm file; the matrix takes them as they are."""
    wrong = [f"{scope} (not in the realm file)" for scope in sorted(caller.scopes - caller.expected_scopes)]
    wrong += [f"not {scope} (in the realm file)" for scope in sorted(caller.expected_scopes - caller.scopes)]
    scopes = ", ".join(wrong) or " ".join(sorted(caller.scopes)) or "no scope"
    context.report.check(f"{caller.name} has {scopes}", ok=not wrong)


async def _callers(context: TourContext) -> list[Caller]:
    tokens, realm = context.tokens, context.realm
    bob, alice, carol = [await tokens.user(name) for name in USERS]
    callers = [
        Caller("no token"),
        Caller("expired", context.short_lived_token),
        Caller("wrong audience", await tokens.of_client(OTHER_AUDIENCE)),
        Caller("wrong issuer", await wrong_issuer_token(context.stack, realm)),
        Caller("tampered", tampered(bob.token or "", [s.name for s in realm.scopes.values()])),
        bob,
        alice,
        carol,
        *[await tokens.client(name) for name in CLIENTS],
    ]
    await tokens.wait_until_inactive(context.short_lived_token, EXPIRY_SECONDS)
    return callers


async def explain_denials(context: TourContext) -> None:
    """Show one denial of each kind, and check that all of them state a reason."""
    denied = [cell for cell in context.cells if cell.outcome.code in REFUSALS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("caller", "RPC", "code", "ErrorInfo", "www-authenticate"):
        table.add_column(heading, overflow="fold")
    kinds: dict[tuple[grpc.StatusCode, str], Cell] = {}
    for cell in denied:
        kinds.setdefault((cell.outcome.code, cell.outcome.reason), cell)
    for cell in kinds.values():
        outcome = cell.outcome
        code = SHORT_CODES.get(outcome.code, outcome.code.name)
        table.add_row(cell.caller.name, cell.row.method, code, outcome.reason, outcome.challenge)
    context.report.show(table)
    explained = sum(1 for cell in denied if cell.outcome.reason and cell.outcome.challenge)
    context.report.check(
        f"{explained} of {len(denied)} denials state a reason and a challenge (RFC 6750)",
        ok=explained == len(denied),
    )
