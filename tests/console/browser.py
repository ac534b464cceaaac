"""A browser without a screen: cookies, forms, redirects, and the headers that browsers send with requests."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import httpx

from tests.support.oauth_fixtures import tls_context


class Browser:
    """One browser.

    Args:
        app: The console; None if it listens at its URL.
        origin: Its URL. Requests for other hosts go over the network.
    """

    def __init__(self, app: Any, origin: str) -> None:
        self.origin = origin
        mounts = {} if app is None else {origin: httpx.ASGITransport(app)}
        self.http = httpx.AsyncClient(mounts=mounts, verify=tls_context(), trust_env=False, timeout=60)
        self.seen: list[httpx.Response] = []
        """Every response, redirects too."""

    async def get(self, url: str, **headers: str) -> httpx.Response:
        """Open a page, and follow its redirects."""
        sent = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"} | _named(headers)
        return await self._follow(await self._send("GET", url, headers=sent))

    async def post(self, url: str, form: dict[str, str], **headers: str) -> httpx.Response:
        """Send a form of a page of the console, and follow the redirects."""
        sent = {"sec-fetch-site": "same-origin", "origin": self.origin} | _named(headers)
        sent = {name: value for name, value in sent.items() if value}
        return await self._follow(await self._send("POST", url, data=form, headers=sent))

    async def submit(self, page: httpx.Response, action: str, **fields: str) -> httpx.Response:
        """Send a form that a page has, with its hidden fields."""
        return await self.post(action, hidden_fields(page, action) | fields)

    async def fill(self, page: httpx.Response, action: str, changes: Mapping[str, str]) -> httpx.Response:
        """Send a form that a page has, with all its fields, some of them changed."""
        return await self.post(action, all_fields(page, action) | dict(changes))

    async def open_login_page(self, return_to: str = "/") -> httpx.Response:
        """Begin to sign in, and return the login page of the issuer."""
        return await self.get(f"/sign-in?return_to={return_to}")

    async def sign_in(self, user: str = "alice", return_to: str = "/") -> httpx.Response:
        """Sign in, and return the page after it."""
        page = await self.open_login_page(return_to)
        return await self._follow(await self.enter_password(page, user))

    async def enter_password(self, page: httpx.Response, user: str = "alice") -> httpx.Response:
        """Fill in the login page of the issuer, and return the redirect to the console, not followed."""
        action = re.search(r'<form [^>]*action="([^"]+)"', page.text)
        assert action is not None, page.text
        return await self._send("POST", html.unescape(action[1]), data={"username": user, "password": user})

    async def aclose(self) -> None:
        await self.http.aclose()

    async def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        if url.startswith("/"):
            url = f"{self.origin}{url}"
        response = await self.http.request(method, url, **more)
        self.seen.append(response)
        return response

    async def _follow(self, response: httpx.Response) -> httpx.Response:
        while response.is_redirect:
            assert response.next_request is not None
            response = await self._send("GET", str(response.next_request.url))
        return response


def hidden_fields(page: httpx.Response, action: str) -> dict[str, str]:
    """Return the hidden fields of a form."""
    form = re.search(rf'<form [^>]*action="{re.escape(action)}".*?</form>', page.text, re.DOTALL)
    assert form is not None, page.text
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))


class _Form(HTMLParser):
    """Collects what a browser would send of one form."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self._action = action
        self._inside = False
        self._area = self._select = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = values["action"] == self._action
        elif self._inside and tag == "input":
            self.fields[values["name"]] = values.get("value", "")
        elif self._inside and tag == "textarea":
            self._area = values["name"]
            self.fields[self._area] = ""
        elif self._inside and tag == "select":
            self._select = values["name"]
        elif self._inside and tag == "option" and ("selected" in values or self._select not in self.fields):
            self.fields[self._select] = values["value"]

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area:
            # Browsers drop the first line end, and send those of MIME.
            content = self.fields[self._area].removeprefix("\n")
            self.fields[self._area] = content.replace("\n", "\r\n")
            self._area = ""
        elif tag == "form":
            self._inside = False


def all_fields(page: httpx.Response, action: str) -> dict[str, str]:
    """Return all fields of a form."""
    form = _Form(action)
    form.feed(page.text)
    assert form.fields, page.text
    return form.fields


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
