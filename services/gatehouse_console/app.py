"""The web application: routes, errors, and what lives as long as it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
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
from starlette.types import ASGIApp

from gatehouse.client.profile import Profile
from gatehouse.client.registration import open_client, registration_in
from gatehouse.oauth import open_http
from gatehouse_console.audit_pages import AuditPages
from gatehouse_console.call_pages import CallPages
from gatehouse_console.config import Link, Origin
from gatehouse_console.guard import Guard
from gatehouse_console.matrix_pages import MatrixPages
from gatehouse_console.metrics.pages import MetricPages
from gatehouse_console.metrics.sources import open_source
from gatehouse_console.problems import Problem, SignInRequired
from gatehouse_console.role_pages import RolePages
from gatehouse_console.sessions import Sessions
from gatehouse_console.sign_in import SignIn
from gatehouse_console.site import Site, load_templates
from gatehouse_console.token_pages import TokenPages
from gatehouse_console.traces.pages import TracePages

_STATIC = Path(__file__).parent / "static"


@asynccontextmanager
async def open_app(profile: Profile, origin: Origin, links: Sequence[Link] = ()) -> AsyncIterator[ASGIApp]:
    """Open the application; it is usable until the context ends.

    Args:
        profile: The system to show.
        origin: Where browsers find the console.
        links: Other tools that every page links to.

    Raises:
        ConfigurationError: The CA file of the profile cannot be used.
    """
    async with (
        open_client(registration_in(profile), proxy=profile.proxy_url) as client,
        open_http(profile.ca_file) as http,
        open_source(profile, http) as metrics,
    ):
        site = Site(origin, profile, client, Sessions(origin), load_templates(), links)
        yield _create(site, [*TracePages(site, http).routes(), *MetricPages(site, metrics).routes()])


def _create(site: Site, more: Sequence[Route]) -> ASGIApp:
    form_targets: set[str] = set()

    async def on_problem(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)  # noqa: S101 - by its registration below
        return site.page(request, "problem.html", problem.status, title=problem.title, text=problem.text)

    async def on_sign_in_required(request: Request, error: Exception) -> Response:
        return_to = quote(request.url.path) if request.method == "GET" else "/"
        ended = isinstance(error, SignInRequired) and error.ended
        # The front page is for everybody; without a session it is this one.
        status = 401 if ended or return_to != "/" else 200
        return site.page(request, "welcome.html", status, return_to=return_to, ended=ended)

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
            *CallPages(site).routes(),
            *more,
            *TokenPages(site).routes(),
            *RolePages(site).routes(),
            *AuditPages(site).routes(),
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
