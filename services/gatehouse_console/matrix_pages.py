"""The front page with the access matrix, and the page of one of its cells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.app.policy import policy_rows
from gatehouse.app.services import SERVICES
from gatehouse_console.callers import YOU, find_callers
from gatehouse_console.challenges import explain_challenge
from gatehouse_console.matrix import Matrix, run_matrix
from gatehouse_console.problems import Problem
from gatehouse_console.recent import Recent
from gatehouse_console.sessions import IDLE_SECONDS, Session
from gatehouse_console.site import Site
from gatehouse_console.traces.calls import TracedCall
from gatehouse_console.unary import proto_rule

# A matrix has some hundred cells, so fewer are kept than sessions.
_MAX_KEPT = 200
_CONCURRENT_RUNS = 2


@dataclass(slots=True)
class _Kept:
    """The last matrix of a session; the lock lets one run at a time."""

    matrix: Matrix | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class MatrixPages:
    """The pages of the matrix.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kept: Recent[_Kept] = Recent(_MAX_KEPT, IDLE_SECONDS)
        self._running = asyncio.Semaphore(_CONCURRENT_RUNS)

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route("/", self.show),
            Route("/run", self.run, methods=["POST"]),
            Route("/cell/{caller}/{rpc:path}", self.cell),
        ]

    async def show(self, request: Request) -> Response:
        """Show the matrix. The first one of a session is made now."""
        session = self._site.session(request)
        kept = self._of(session)
        matrix = kept.matrix or await self._run(session, kept)
        groups = [
            (SERVICES[name].descriptor.name, list(rows))
            for name, rows in groupby(policy_rows(), key=lambda row: row.service)
        ]
        return self._site.page(request, "matrix.html", matrix=matrix, groups=groups)

    async def run(self, request: Request) -> Response:
        """Make the matrix again."""
        session, _ = await self._site.form(request)
        await self._run(session, self._of(session))
        return RedirectResponse(f"{self._site.origin.url}/", 303)

    async def cell(self, request: Request) -> Response:
        """Explain one cell."""
        session = self._site.session(request)
        matrix = self._of(session).matrix
        place = (request.path_params["rpc"], request.path_params["caller"])
        cell = matrix.cells.get(place) if matrix is not None else None
        if cell is None:
            raise Problem(404, "No such cell", "The matrix has no such caller or RPC. Open the matrix again.")
        return self._site.page(
            request,
            "cell.html",
            cell=cell,
            rule=proto_rule(cell.row),
            challenge=explain_challenge(cell.outcome.challenge),
        )

    def _of(self, session: Session) -> _Kept:
        kept = self._kept.get(session.id)
        if kept is None:
            kept = self._kept[session.id] = _Kept()
        return kept

    async def _run(self, session: Session, kept: _Kept) -> Matrix:
        async with kept.lock, self._running:
            token = await self._site.token(session)
            callers = await find_callers(self._site.profile, session.user, token)
            matrix = kept.matrix = await run_matrix(self._site.profile, callers, kept.matrix)
        for cell in matrix.cells.values():
            if cell.caller.name == YOU:
                code, ended_at = cell.outcome.code.name, matrix.ended_at
                call = TracedCall(cell.row.name, code, cell.seconds, ended_at, cell.trace_id)
                self._site.calls.add(session, call)
        return matrix
