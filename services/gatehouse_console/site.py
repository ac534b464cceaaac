"""What all pages share: the profile, the client at the issuer, the sessions and the templates."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gatehouse.client import LoginRequired, OAuthClient
from gatehouse.client.profile import Profile
from gatehouse.oauth import OAuthError
from gatehouse_console.challenges import step_up
from gatehouse_console.config import Link, Origin
from gatehouse_console.forms import read_form
from gatehouse_console.kept_forms import KeptForms
from gatehouse_console.problems import Problem, SignInRequired, problem_of
from gatehouse_console.sessions import Session, Sessions
from gatehouse_console.text import duration_text, short_rpc, shorten
from gatehouse_console.traces.calls import CallLog

# Path and name of each page in the header.
PAGES = (
    ("/", "Access matrix"),
    ("/call", "Call"),
    ("/traces", "Traces"),
    ("/metrics", "Metrics"),
    ("/token", "Token"),
    # <part admin>
    ("/roles", "Roles"),
    ("/audit", "Audit"),
    # </part admin>
)


@functools.cache
def load_templates() -> jinja2.Environment:
    """Return the templates, which are compiled once. Every value is escaped; an unknown name is an error."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("gatehouse_console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["clock_time"] = lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S} UTC"
    templates.filters["date_time"] = lambda time: f"{time:%Y-%m-%d %H:%M:%S} UTC"
    templates.filters["step_up"] = lambda challenge: urlencode(step_up(challenge))
    templates.filters |= {"duration": duration_text, "short_rpc": short_rpc, "shorten": shorten}
    return templates


@dataclass(frozen=True, slots=True)
class Site:
    """A running console.

    Attributes:
        origin: Where it is.
        profile: Where the services and the issuer are.
        client: The client of the console at the issuer.
        sessions: Who is signed in.
        templates: See load_templates.
        links: Other tools that every page links to.
        calls: The calls of each session that have traces.
        kept_forms: Forms of calls that need a stronger login.
    """

    origin: Origin
    profile: Profile
    client: OAuthClient
    sessions: Sessions
    templates: jinja2.Environment
    links: Sequence[Link] = ()
    calls: CallLog = field(default_factory=CallLog)
    kept_forms: KeptForms = field(default_factory=KeptForms)

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        shared = {
            "session": self.sessions.find(request),
            "path": request.url.path,
            "profile": self.profile,
            "pages": PAGES,
            "links": self.links,
            "on_loopback": not self.origin.is_https,
        }
        return HTMLResponse(self.templates.get_template(template).render(shared | values), status)

    def session(self, request: Request) -> Session:
        """Return the session of a browser.

        Raises:
            SignInRequired: There is none.
        """
        session = self.sessions.find(request)
        if session is None:
            raise SignInRequired
        return session

    async def token(self, session: Session) -> str:
        """Return the access token of a session.

        Raises:
            SignInRequired: The issuer has ended its login.
            Problem: The issuer does not respond.
        """
        try:
            return await session.tokens.token()
        except LoginRequired:
            self.sessions.end(session)
            raise SignInRequired(ended=True) from None
        except OAuthError as error:
            raise problem_of(error, self.profile.issuer) from None

    async def form(self, request: Request) -> tuple[Session, Mapping[str, str]]:
        """Return the session of a browser and the form that it has sent.

        Raises:
            SignInRequired: See `session`.
            Problem: The form is malformed, or is not of this session.
        """
        session, form = self.session(request), await read_form(request)
        if not session.owns(form.get("csrf", "")):
            raise Problem(
                403,
                "Not a form of this session",
                "You have signed in since this page was opened. Open it again.",
            )
        return session, form
