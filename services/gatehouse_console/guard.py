"""What holds for every request: for which host it is, who has sent it, and the headers of its response."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from gatehouse_console.config import HEALTH_PATH, Origin

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HSTS = "max-age=31536000"


class Guard:
    """Refuses requests for other hosts and forms of other websites, and sets the security headers.

    Args:
        app: Handles what is accepted.
        origin: The origin of the console.
        form_targets: Origins of other websites that forms may lead to; read for each response.

    Attributes:
        app: The argument.
    """

    def __init__(self, app: Starlette, origin: Origin, form_targets: set[str]) -> None:
        self.app = app
        self._origin = origin
        self._form_targets = form_targets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers().items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope["method"], scope["path"], Headers(scope=scope))
        await (self.app if answer is None else answer)(scope, receive, send_with_headers)

    def _answer(self, method: str, path: str, headers: Headers) -> Response | None:
        """Return the response to a request that the application does not get, None for all others."""
        if path == HEALTH_PATH:  # from probes, which do not know the name of the host
            return Response(status_code=204)
        host = headers.get("host", "")
        if host != self._origin.host:
            if method in _SAFE_METHODS and self._origin.is_alias(host):
                return RedirectResponse(f"{self._origin.url}/", 307)
            # Otherwise a website could have its name resolve to this address (DNS rebinding).
            return PlainTextResponse(f"The console is at {self._origin.url}\n", 421)
        if method in _SAFE_METHODS or self._is_own(headers):
            return None
        return PlainTextResponse("Forms are accepted from the pages of the console only.\n", 403)

    def _is_own(self, headers: Headers) -> bool:
        """Return whether a request was sent by one of our pages. All browsers send one of these headers."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        return (
            (site is not None or origin is not None)
            and site in {None, "same-origin"}
            and origin in {None, self._origin.url}
        )

    def _headers(self) -> Mapping[str, str]:
        targets = " ".join(["'self'", *sorted(self._form_targets)])
        headers = {
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
                f"connect-src 'self'; form-action {targets}; base-uri 'none'; frame-ancestors 'none'"
            ),
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            # Not `no-referrer`: forms would then be sent with `Origin: null`.
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        return headers | ({"Strict-Transport-Security": _HSTS} if self._origin.is_https else {})
