"""The web application: routes, errors, and what lives as long as it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gatehouse.client.profile import Profile
from gatehouse.client.registration import open_client, registration_in
from gatehouse.oauth import open_http

# <part admin>
from gatehouse_console.audit_pages import AuditPages

# </part admin>
from gatehouse_console.calls.pages import CallPages
from gatehouse_console.calls.runs import open_runs
from gatehouse_console.config import Link, Origin
from gatehouse_console.guard import Guard
from gatehouse_console.matrix_pages import MatrixPages
from gatehouse_console.metrics.pages import MetricPages
from gatehouse_console.metrics.sources import open_source
from gatehouse_console.problems import Problem, SignInRequired

# <part admin>
from gatehouse_console.role_pages import RolePages

# </part admin>
from gatehouse_console.sessions import Sessions
from gatehouse_console.sign_in import SignIn
from gatehouse_console.site import Site, load_templates
from gatehouse_console.token_pages import TokenPages
from gatehouse_console.traces.pages import TracePages

_STATIC = Path(__file__).parent / "static"


@asynccontextmanager
async def open_app(
    profile: Profile,
    origin: Origin,
    links: Sequence[Link] = (),
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Guard]:
    """Open the application; it is usable until the context ends.

    Args:
        profile: The system to show.
        origin: Where browsers find the console.
        links: Other tools that every page links to.
        monotonic: Seconds of a monotonic clock, by which sessions end.

    Raises:
        ConfigurationError: The CA file of the profile cannot be used.
    """
    async with (
        open_client(registration_in(profile), proxy=profile.proxy_url) as client,
        open_http(profile.ca_file) as http,
        open_source(profile, http) as metrics,
        open_runs(profile) as runs,
    ):
        site = Site(origin, profile, client, Sessions(origin, monotonic), load_templates(), links)
        site.sessions.on_end(runs.end_session)
        pages = (CallPages(site, runs), TracePages(site, http), MetricPages(site, metrics))
        yield _create(site, [route for page in pages for route in page.routes()])


def _create(site: Site, more: Sequence[Route]) -> Guard:
    form_targets: set[str] = set()

    async def on_problem(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)  # noqa: S101 - by its registration below
        return site.page(request, "problem.html", problem.status, title=problem.title, text=problem.text)

    async def on_sign_in_required(request: Request, error: Exception) -> Response:
        is_form = request.method not in {"GET", "HEAD"}
        ended = isinstance(error, SignInRequired) and (error.ended or site.sessions.is_named(request))
        # The front page is for everybody; without a session it is this one.
        is_front = request.url.path == "/" and not ended and not is_form
        return site.page(
            request,
            "welcome.html",
            200 if is_front else 401,
            return_to="/" if is_form else quote(request.url.path),
            ended=ended,
            is_front=is_front,
        )

    async def on_http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = (error.headers if isinstance(error, HTTPException) else None) or {}
        text = "There is no such page." if status == HTTPStatus.NOT_FOUND else "Open the page again."
        page = site.page(request, "problem.html", status, title=HTTPStatus(status).phrase, text=text)
        page.headers.update(headers)
        return page

    app = Starlette(
        routes=[
            *MatrixPages(site).routes(),
            *more,
            *TokenPages(site).routes(),
            # <part admin>
            *RolePages(site).routes(),
            *AuditPages(site).routes(),
            # </part admin>
            *SignIn(site, form_targets).routes(),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers={
            Problem: on_problem,
            SignInRequired: on_sign_in_required,
            HTTPException: on_http_error,
            Exception: on_http_error,
        },
    )
    # Around everything, so that responses to unexpected errors have its headers too.
    return Guard(app, site.origin, form_targets)
