"""The pages that call any RPC as the user."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor import MethodDescriptor
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.client.requests import find_method
from gatehouse_console.calls.commands import commands
from gatehouse_console.calls.draft import MAX_SECONDS, Draft, new_draft, read_draft
from gatehouse_console.calls.events import event_stream
from gatehouse_console.calls.result import note_violations, result_of
from gatehouse_console.calls.run import Run
from gatehouse_console.calls.runs import MAX_READERS, Runs
from gatehouse_console.challenges import step_up
from gatehouse_console.forms import read_query
from gatehouse_console.problems import Problem
from gatehouse_console.sessions import Session
from gatehouse_console.site import Site
from gatehouse_console.traces.calls import TracedCall

# A call that ends within it needs no live page; a stream that has begun needs one soon.
_WAIT_SECONDS = 1.0
_WAIT_SECONDS_OF_STREAM = 0.2


class CallPages:
    """The pages for calls.

    Args:
        site: The console.
        runs: The calls in progress.
    """

    def __init__(self, site: Site, runs: Runs) -> None:
        self._site = site
        self._runs = runs

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route("/call", self.choose),
            Route("/call/{rpc:path}", self.prepare),
            Route("/call/{rpc:path}", self.send, methods=["POST"]),
            Route("/calls/{run}", self.show),
            Route("/calls/{run}/events", self.follow),
            Route("/calls/{run}/cancel", self.cancel, methods=["POST"]),
        ]

    async def choose(self, request: Request) -> Response:
        """List the RPCs, and the last calls."""
        session = self._site.session(request)
        runs = list(reversed(self._runs.of(session.id)))
        return self._site.page(request, "calls.html", rows=policy_rows(), services=SERVICES, runs=runs)

    async def prepare(self, request: Request) -> Response:
        """Show the form of an RPC."""
        session, row = self._site.session(request), _row(request)
        method, kept = _method(row), self._site.kept_forms.take(session, request.url.path)
        return self._page(request, session, row, read_draft(method, kept) if kept else new_draft(method))

    async def send(self, request: Request) -> Response:
        """Call an RPC, or show its form otherwise."""
        session, form = await self._site.form(request)
        row = _row(request)
        draft, action = read_draft(_method(row), form), form.get("do", "call")
        if "edit" in form or draft.problems:
            return self._page(request, session, row, draft)
        if action == "form":
            draft.show_form()
        elif action == "json":
            draft.show_json()
        elif (call := draft.prepare(row, form)) is not None and action == "call":
            token = await self._site.token(session)
            run = self._runs.start(call, session.id, token, lambda run: self._ended(session, run))
            if draft.method.server_streaming:
                await run.wait(_WAIT_SECONDS)
                await run.wait(_WAIT_SECONDS_OF_STREAM, until_end=True)
            else:
                await run.wait(_WAIT_SECONDS, until_end=True)
            return RedirectResponse(f"{self._site.origin.url}/calls/{run.id}#result", 303)
        return self._page(request, session, row, draft)

    async def show(self, request: Request) -> Response:
        """Show a call: what was sent, and how it ended or what it has returned so far."""
        session = self._site.session(request)
        run = self._find(session, request)
        draft = read_draft(_method(run.call.row), run.call.form)
        if draft.root is not None:
            note_violations(draft.root, run)
        return self._page(request, session, run.call.row, draft, run=run)

    async def follow(self, request: Request) -> Response:
        """Send the responses of a call when they arrive, as server-sent events."""
        session = self._site.session(request)
        run = self._find(session, request)
        after = request.headers.get("last-event-id") or read_query(request).get("after", "")
        if not self._runs.may_follow(run):
            raise Problem(429, "Too many live pages", f"{MAX_READERS} pages of yours are live. Close one.")
        return event_stream(self._site.templates, self._runs, run, int(after) if after.isdecimal() else 0)

    async def cancel(self, request: Request) -> Response:
        """Cancel a call."""
        session, _ = await self._site.form(request)
        run = self._find(session, request)
        self._runs.cancel(run)
        return RedirectResponse(f"{self._site.origin.url}/calls/{run.id}#result", 303)

    def _find(self, session: Session, request: Request) -> Run:
        run = self._runs.find(session.id, request.path_params["run"])
        if run is None:
            raise Problem(404, "No such call", "It is no longer stored. Call again on the page Call.")
        return run

    def _ended(self, session: Session, run: Run) -> None:
        if run.outcome is not None:
            code, name = run.outcome.code.name, run.call.row.name
            self._site.calls.add(session, TracedCall(name, code, run.seconds, run.ended_at, run.trace_id))
            if step_up(run.outcome.challenge):
                self._site.kept_forms.keep(session, f"/call/{name}", run.call.form)

    def _page(
        self,
        request: Request,
        session: Session,
        row: PolicyRow,
        draft: Draft,
        *,
        run: Run | None = None,
    ) -> Response:
        return self._site.page(
            request,
            "call.html",
            row=row,
            draft=draft,
            max_seconds=MAX_SECONDS,
            run=run,
            result=result_of(run) if run is not None else None,
            commands=commands(self._site.profile, session.user, row, draft),
        )


def _row(request: Request) -> PolicyRow:
    name = request.path_params["rpc"]
    found = next((row for row in policy_rows() if row.name == name), None)
    if found is None:
        raise Problem(404, "No such RPC", "No service has it. Choose one on the page Call.")
    return found


def _method(row: PolicyRow) -> MethodDescriptor:
    return find_method(SERVICES[row.service].descriptor, row.method)
