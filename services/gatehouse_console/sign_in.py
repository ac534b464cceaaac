"""Sign in by authorization code with PKCE, and sign out here and at the issuer.

See OAuth 2.0 for Browser-Based Applications, section 6.1, and OpenID Connect RP-Initiated Logout 1.0.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.app.policy import policy_scopes
from gatehouse.client import AuthorizationRequest
from gatehouse.client.registration import registration_in
from gatehouse.oauth import IssuerUnavailable, OAuthError, TokenRequestFailed
from gatehouse_console.config import CALLBACK_PATH
from gatehouse_console.forms import read_query
from gatehouse_console.problems import Problem, problem_of
from gatehouse_console.recent import Recent
from gatehouse_console.sessions import Session
from gatehouse_console.site import Site

_MAX_PENDING = 10_000
_PENDING_SECONDS = 600
_SIGNED_OUT = "signed-out"
# Space-separated classes of RFC 9470 section 3 without quotes, and seconds.
_LOGIN_PARAMETERS = {
    "acr_values": re.compile(r"[\x20\x21\x23-\x5B\x5D-\x7E]{1,200}"),
    "max_age": re.compile(r"[0-9]{1,9}"),
}
_PATH = re.compile(r"/(?:[\w.~%-]+(?:/[\w.~%-]+)*)?")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A sign-in that waits for the browser to come back."""

    authorization: AuthorizationRequest
    browser: str = field(repr=False)
    return_to: str


class SignIn:
    """The pages for signing in and out.

    Args:
        site: The console.
        form_targets: Origins that forms may lead to; that of the issuer is added when it is known.
    """

    def __init__(self, site: Site, form_targets: set[str]) -> None:
        self._site = site
        self._form_targets = form_targets
        self._pending: Recent[_Pending] = Recent(_MAX_PENDING, _PENDING_SECONDS)

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route("/sign-in", self.begin),
            Route(CALLBACK_PATH, self.finish),
            Route("/sign-out", self.end, methods=["POST"]),
            Route("/signed-out", self.ended),
        ]

    async def begin(self, request: Request) -> Response:
        """Send the browser to the issuer."""
        site, query = self._site, read_query(request)
        return_to = query.get("return_to", "/")
        scope = " ".join(["openid", *sorted(policy_scopes())])
        try:
            authorization = await AuthorizationRequest.create(site.client, scope, site.origin.redirect_uri)
        except IssuerUnavailable as error:
            raise problem_of(error, site.profile.issuer) from None
        metadata = authorization.metadata
        self._allow_forms_to(metadata.authorization_endpoint, metadata.end_session_endpoint)
        browser = secrets.token_urlsafe(32)
        # Only paths of the console: never the URL of another website.
        path = return_to if _PATH.fullmatch(return_to) else "/"
        self._pending[authorization.state] = _Pending(authorization, browser, path)
        parameters = {**registration_in(site.profile).targets, **_login_parameters(query)}
        response = RedirectResponse(authorization.url(parameters), 303)
        self._set_cookie(response, self._cookie(authorization.state), browser, _PENDING_SECONDS)
        return response

    async def finish(self, request: Request) -> Response:
        """Receive the browser from the issuer, after a sign-in or a sign-out."""
        site, query = self._site, read_query(request)
        state = query.get("state", "")
        if state == _SIGNED_OUT:
            return RedirectResponse(f"{site.origin.url}/signed-out", 303)
        cookie = self._cookie(state)
        browser, pending = request.cookies.get(cookie, ""), self._pending.pop(state)
        # The code of another person's login must not sign in this browser (RFC 6749 section 10.12).
        if pending is None or not hmac.compare_digest(browser.encode(), pending.browser.encode()):
            raise Problem(
                400,
                "This sign-in cannot be finished",
                "It is too old, was finished before, or was started in another browser. Sign in again.",
            )
        try:
            tokens = await pending.authorization.redeem(query)
        except OAuthError as error:
            raise problem_of(error, site.profile.issuer) from None
        previous = site.sessions.find(request)
        site.sessions.end(previous)
        session = site.sessions.begin(site.client, tokens)
        site.kept_forms.move(previous, session)
        response = RedirectResponse(f"{site.origin.url}{pending.return_to}", 303)
        site.sessions.set_cookie(response, session)
        self._set_cookie(response, cookie, "", 0)
        return response

    async def end(self, request: Request) -> Response:
        """End the session here, then at the issuer."""
        site = self._site
        session, _ = await site.form(request)
        site.sessions.end(session)
        response: Response
        try:
            response = RedirectResponse(await self._end_at_issuer(session), 303)
        except IssuerUnavailable as error:
            problem = problem_of(error, site.profile.issuer)
            text = (
                f"{problem.text} You are signed out here, but perhaps not there. The token is valid until it "
                "expires."
            )
            response = site.page(request, "problem.html", 503, title=problem.title, text=text)
        site.sessions.delete_cookie(response)
        return response

    async def ended(self, request: Request) -> Response:
        """Say that the user is signed out."""
        return self._site.page(request, "signed_out.html")

    async def _end_at_issuer(self, session: Session) -> str:
        """Revoke the tokens, and return where the browser ends the login.

        Raises:
            IssuerUnavailable: The issuer does not respond.
        """
        site, login = self._site, session.login
        metadata = await site.client.metadata()
        endpoint = site.profile.revocation_endpoint or metadata.revocation_endpoint
        if login is not None and endpoint:
            try:
                await site.client.revoke(login.access_token, "access_token", endpoint=endpoint)
                if not metadata.end_session_endpoint and login.refresh_token:
                    await site.client.revoke(login.refresh_token, "refresh_token", endpoint=endpoint)
            except TokenRequestFailed:
                pass  # it has ended, or tokens of this type are not revocable (RFC 7009 section 2.2.1)
        if not metadata.end_session_endpoint:
            return f"{site.origin.url}/signed-out"
        query = {
            "client_id": site.client.client_id,
            "id_token_hint": session.id_token,
            "post_logout_redirect_uri": site.origin.redirect_uri,
            "state": _SIGNED_OUT,
        }
        return str(httpx.URL(metadata.end_session_endpoint).copy_merge_params(query))

    def _allow_forms_to(self, *endpoints: str) -> None:
        """Let forms lead to the issuer, after a redirect: browsers check these too (CSP)."""
        for url in map(httpx.URL, filter(None, endpoints)):
            self._form_targets.add(f"{url.scheme}://{url.netloc.decode()}")

    def _set_cookie(self, response: Response, name: str, value: str, seconds: int) -> None:
        secure = self._site.origin.is_https
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax"
        )

    def _cookie(self, state: str) -> str:
        """Return the name of the cookie of one sign-in, so that two tabs can sign in at once."""
        return self._site.origin.cookie(f"sign-in-{hashlib.sha256(state.encode()).hexdigest()[:12]}")


def _login_parameters(query: Mapping[str, str]) -> Mapping[str, str]:
    """Return what to ask the issuer for, so that a login satisfies a challenge (RFC 9470 section 4)."""
    # With `again`, the issuer asks for the password although it remembers the user.
    asked = {"prompt": "login"} if "again" in query else {}
    for name, grammar in _LOGIN_PARAMETERS.items():
        if query.get(name):
            if not grammar.fullmatch(query[name]):
                raise Problem(400, "Malformed request", f"{name}: not a value of a challenge. Call again.")
            asked[name] = query[name]
    return asked
