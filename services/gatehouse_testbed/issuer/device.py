"""Device authorization (RFC 8628): the endpoint for devices, and the pages where users enter their codes."""

from __future__ import annotations

import secrets
from urllib.parse import urlencode

from authlib.oauth2.rfc6749 import OAuth2Error
from authlib.oauth2.rfc8628.endpoint import create_string_user_code
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gatehouse_testbed.issuer import pages
from gatehouse_testbed.issuer.device_grant import DEVICE_CODE, DeviceGrant
from gatehouse_testbed.issuer.forms import Refusal, read_form
from gatehouse_testbed.issuer.login import Login, oauth2_request
from gatehouse_testbed.issuer.realm import Client
from gatehouse_testbed.issuer.server import IssuerServer
from gatehouse_testbed.issuer.sessions import Bounded, DeviceCode, Session

LIFETIME_SECONDS, INTERVAL_SECONDS = 600, 5


class DeviceAuthorization:
    """Device authorization of one realm.

    Args:
        server: The authorization server.
        login: Its login page.
        issuer: Issuer URL.
    """

    def __init__(self, server: IssuerServer, login: Login, issuer: str) -> None:
        self._server = server
        self._login = login
        self._sessions = server.tokens.sessions
        self._clock = server.tokens.clock
        self._page_url = f"{issuer}/device"
        self._consent_url = f"{issuer}/login-actions/consent"
        self._consents: Bounded[tuple[DeviceCode, Session]] = Bounded()

    def routes(self, root: str, protocol: str) -> list[Route]:
        """Return the routes; `root` and `protocol` are the paths of the realm and of its endpoints."""
        return [
            Route(f"{protocol}/auth/device", self.start, methods=["POST"]),
            Route(f"{root}/device", self.enter_code, methods=["GET", "POST"]),
            Route(f"{root}/device/status", self.status),
            Route(f"{root}/login-actions/consent", self.consent, methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        """Answer a device authorization request (RFC 8628 section 3.1)."""
        form = await read_form(request)
        asked = oauth2_request(request, form)
        try:
            client = self._server.authenticate_client(asked, DeviceGrant.TOKEN_ENDPOINT_AUTH_METHODS)
        except OAuth2Error as error:
            return self._server.handle_error_response(asked, error)
        if not client.check_grant_type(DEVICE_CODE):
            raise Refusal(
                400,
                "unauthorized_client",
                "Client is not allowed to initiate OAuth 2.0 Device Authorization Grant. "
                "The flow is disabled for the client.",
            )
        _check_challenge(form)
        lifetime = int(client.attributes.get("oauth2.device.code.lifespan", LIFETIME_SECONDS))
        code = self._new_code(client, form, lifetime)
        return JSONResponse(
            {
                "device_code": code.code,
                "user_code": code.user_code,
                "verification_uri": self._page_url,
                "verification_uri_complete": f"{self._page_url}?{urlencode({'user_code': code.user_code})}",
                "expires_in": lifetime,
                "interval": code.interval,
            },
            headers={"Cache-Control": "no-store"},
        )

    def _new_code(self, client: Client, form: dict[str, str], lifetime: int) -> DeviceCode:
        code = DeviceCode(
            code=secrets.token_urlsafe(32),
            user_code=create_string_user_code(),
            client_id=client.client_id,
            scope=form.get("scope", ""),
            code_challenge=form["code_challenge"],
            expires_at=self._clock() + lifetime,
            interval=int(client.attributes.get("oauth2.device.polling.interval", INTERVAL_SECONDS)),
        )
        self._sessions.device_codes[code.code] = code
        return code

    async def enter_code(self, request: Request) -> Response:
        """Show the page for the code; after a valid code, that for the login or for the consent."""
        if request.method == "POST":
            entered = (await read_form(request)).get("device_user_code", "")
        else:
            entered = request.query_params.get("user_code", "")
        if not entered:
            return pages.user_code_page(self._page_url, "")
        code = self._code_of(entered)
        if code is None:
            return pages.user_code_page(self._page_url, "Invalid code, please try again.")
        session = self._login.session_of(request)
        if session is None:
            return self._login.page(lambda session: self._consent_page(code, session))
        session.acr = "0"  # as at the authorization endpoint
        return self._consent_page(code, session)

    def _code_of(self, entered: str) -> DeviceCode | None:
        """Return the code that waits for its user; case and separators do not matter."""
        letters = "".join(c for c in entered.upper() if c.isalpha())
        return next(
            (
                code
                for code in self._sessions.device_codes.values()
                if code.user_code.replace("-", "") == letters and code.is_waiting(self._clock())
            ),
            None,
        )

    def _consent_page(self, code: DeviceCode, session: Session) -> Response:
        secret = secrets.token_urlsafe(24)
        self._consents[secret] = (code, session)
        client = self._server.tokens.realm.clients[code.client_id]
        user = self._server.tokens.realm.users[session.user_id]
        scopes = [scope.name for scope in self._server.tokens.granted(client, user, code.scope)]
        return pages.consent_page(self._consent_url, secret, code.client_id, scopes)

    async def consent(self, request: Request) -> Response:
        """Answer the form of the page that asks whether the device may have access."""
        form = await read_form(request)
        found = self._consents.pop(form.get("code", ""), None)
        if found is None or not found[0].is_waiting(self._clock()):
            return pages.expired_page()
        code, session = found
        if self._login.session_of(request) is not session:
            return pages.expired_page()
        if "accept" in form:
            code.session = session
            return RedirectResponse(f"{self._page_url}/status", 302)
        code.denied = True
        return RedirectResponse(f"{self._page_url}/status?error=access_denied", 302)

    async def status(self, request: Request) -> Response:
        """Say that the user can return to the device."""
        return pages.device_status_page(denied="error" in request.query_params)


def _check_challenge(form: dict[str, str]) -> None:
    """Require PKCE with S256 (RFC 7636)."""
    for name in ("code_challenge_method", "code_challenge"):
        if not form.get(name):
            raise Refusal(400, "invalid_request", f"Missing parameter: {name}")
    if form["code_challenge_method"] != "S256":
        raise Refusal(
            400,
            "invalid_request",
            "Invalid parameter: code challenge method is not matching the configured one",
        )
