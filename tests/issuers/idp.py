"""The issuer under test, the development issuer or Keycloak, with helpers for its endpoints."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar, DefaultCookiePolicy
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt

from gatehouse_testbed.issuer import load_realm, run_issuer
from tests.support.issuer import ADMIN_PASSWORD, REALM_FILE, SECRETS
from tests.support.oauth_fixtures import tls_context
from tests.support.scopes import EVERY_SCOPE
from tools.keycloak import ADMIN

CONSOLE = "gatehouse-console"
REDIRECT = "http://127.0.0.1:4567/callback"
SCOPES = EVERY_SCOPE
Json = dict[str, Any]


def claims_of(token: str) -> Json:
    """Return the claims of a token without verifying it."""
    found: Json = jwt.decode(token, options={"verify_signature": False})
    return found


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return the status and `error` of an error response."""
    body = response.json()
    assert "access_token" not in body
    return response.status_code, body["error"]


@dataclass
class Idp:
    """The issuer under test: one realm and its administrator."""

    base_url: str
    http: httpx.AsyncClient
    open_realm: Callable[[Idp, Json], Any]
    admin_password: str
    realm: str = "gatehouse"
    _admin_token: str = field(default="", repr=False)

    @property
    def issuer(self) -> str:
        return f"{self.base_url}/realms/{self.realm}"

    def url(self, path: str) -> str:
        return f"{self.issuer}/protocol/openid-connect/{path}"

    # What clients ask.

    async def token(self, **form: str) -> httpx.Response:
        """Post to the token endpoint."""
        return await self.http.post(self.url("token"), data=form)

    async def service_answer(self, client: str = "gatehouse-worker", **more: str) -> httpx.Response:
        """Request the token of a service account."""
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "client_secret": SECRETS.get(client, "none"),
        }
        return await self.token(**(form | more))

    async def service_token(self, client: str = "gatehouse-worker", scope: str | None = "read:users") -> str:
        asked = {} if scope is None else {"scope": scope}
        return str(granted(await self.service_answer(client, **asked))["access_token"])

    async def password_answer(self, user: str = "alice", **more: str) -> httpx.Response:
        """Request the tokens of a user with the password grant."""
        form = {
            "grant_type": "password",
            "client_id": CONSOLE,
            "username": user,
            "password": user,
            "scope": "read:users",
        }
        return await self.token(**(form | more))

    async def user_tokens(self, user: str = "alice", scope: str = "read:users") -> Json:
        return granted(await self.password_answer(user, scope=scope))

    async def user_token(self, user: str = "alice", scope: str = "read:users") -> str:
        return str((await self.user_tokens(user, scope))["access_token"])

    async def refresh(self, refresh_token: str, client: str = CONSOLE, **more: str) -> httpx.Response:
        return await self.token(
            grant_type="refresh_token", client_id=client, refresh_token=refresh_token, **more
        )

    async def ask(self, endpoint: str, token: str, client: str, **more: str) -> httpx.Response:
        """Post a token to introspection, revocation or logout as a client."""
        secret = {"client_secret": SECRETS[client]} if client in SECRETS else {}
        form = {"token": token, "client_id": client} | secret | more
        return await self.http.post(self.url(endpoint), data=form)

    async def introspect(self, token: str, client: str = "gatehouse-api", **more: str) -> Json:
        """Return the introspection response about a token."""
        answer = await self.ask("token/introspect", token, client, **more)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def is_active(self, token: str) -> bool:
        return bool((await self.introspect(token))["active"])

    async def jwks(self) -> dict[str, Json]:
        """Return the published keys by id."""
        answer = await self.http.get(self.url("certs"))
        return {key["kid"]: key for key in answer.json()["keys"]}

    # Requests of the administrator; each test restores what it changes.

    async def admin(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Call the admin API; `path` is relative to /admin/realms/."""
        if not self._admin_token:
            answer = await self.http.post(
                f"{self.base_url}/realms/master/protocol/openid-connect/token",
                data={
                    "grant_type": "password",
                    "client_id": "admin-cli",
                    "username": ADMIN,
                    "password": self.admin_password,
                },
            )
            self._admin_token = granted(answer)["access_token"]
        return await self.http.request(
            method,
            f"{self.base_url}/admin/realms{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._admin_token}"},
        )

    @asynccontextmanager
    async def signing_key(self, provider: str = "ecdsa-generated", priority: int = 200) -> AsyncIterator[Key]:
        """Add a signing key, and delete it at the end."""
        key = Key(self, provider, priority)
        await key.create()
        try:
            yield key
        finally:
            await key.delete()

    async def user(self, name: str) -> Json:
        """Return a user as the admin API shows it."""
        answer = await self.admin("GET", f"/{self.realm}/users?username={name}&exact=true")
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()
        return dict(found)

    @asynccontextmanager
    async def disabled(self, name: str) -> AsyncIterator[None]:
        """Disable a user within the block."""
        user = await self.user(name)
        place = f"/{self.realm}/users/{user['id']}"
        assert (await self.admin("PUT", place, user | {"enabled": False})).status_code == 204
        try:
            yield
        finally:
            assert (await self.admin("PUT", place, user | {"enabled": True})).status_code == 204

    @asynccontextmanager
    async def without_role(self, name: str, role: str) -> AsyncIterator[None]:
        """Remove a realm role from a user within the block."""
        place = f"/{self.realm}/users/{(await self.user(name))['id']}/role-mappings/realm"
        held = [r for r in (await self.admin("GET", place)).json() if r["name"] == role]
        assert (await self.admin("DELETE", place, held)).status_code == 204
        try:
            yield
        finally:
            assert (await self.admin("POST", place, held)).status_code == 204

    @asynccontextmanager
    async def realm_like(self, change: Callable[[Json], None]) -> AsyncIterator[Idp]:
        """Create another realm: a copy of ours with one change."""
        raw = json.loads(re.sub(r"\$\{[A-Z_]+:([^}]*)\}", r"\1", REALM_FILE.read_text(encoding="utf-8")))
        raw["realm"] = f"like-{secrets.token_hex(4)}"
        for user in raw["users"]:
            user.pop("id", None)
        change(raw)
        async with self.open_realm(self, copy.deepcopy(raw)) as other:
            yield other


def granted(answer: httpx.Response) -> Json:
    """Return the members of a successful token response."""
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


@dataclass
class Key:
    """A component that provides a signing key."""

    idp: Idp
    provider: str
    priority: int
    component_id: str = ""

    def _body(self, **config: str) -> Json:
        values = {"priority": str(self.priority), "enabled": "true", "active": "true"} | config
        return {
            "name": "rotated",
            "providerId": self.provider,
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {name: [value] for name, value in values.items()},
        }

    @property
    def _place(self) -> str:
        return f"/{self.idp.realm}/components/{self.component_id}"

    async def create(self) -> None:
        answer = await self.idp.admin("POST", f"/{self.idp.realm}/components", self._body())
        assert answer.status_code == 201, answer.text
        self.component_id = answer.headers["location"].rsplit("/", 1)[1]

    async def set(self, **config: str) -> None:
        answer = await self.idp.admin("PUT", self._place, self._body(**config))
        assert answer.status_code == 204, answer.text

    async def delete(self) -> None:
        answer = await self.idp.admin("DELETE", self._place)
        assert answer.status_code in {204, 404}, answer.text


class _Forms(HTMLParser):
    """Find the forms of a page with their fields."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((values.get("action", ""), {}))
        elif tag in {"input", "button"} and self.forms and "name" in values:
            self.forms[-1][1][values["name"]] = values.get("value", "")


@dataclass(frozen=True)
class Form:
    """A form of a page."""

    action: str
    fields: dict[str, str]


def form_of(page: httpx.Response) -> Form:
    """Return the first form of a page."""
    assert page.status_code == 200, page.text
    found = _Forms()
    found.feed(page.text)
    assert found.forms, page.text
    action, fields = found.forms[0]
    return Form(urljoin(str(page.request.url), action), fields)


def fields_of(page: httpx.Response) -> set[str]:
    """Return the fields of the form of a page, or none if it has no form."""
    found = _Forms()
    found.feed(page.text)
    return set(found.forms[0][1]) if page.status_code == 200 and found.forms else set()


def client_of(realm: Json, client_id: str) -> Json:
    """Return a client of a realm file."""
    found: Json = next(c for c in realm["clients"] if c["clientId"] == client_id)
    return found


def is_login_page(page: httpx.Response) -> bool:
    return {"username", "password"} <= fields_of(page)


class Browser:
    """A browser: pages, forms and cookies. It stores cookies itself, because those of Keycloak are Secure."""

    def __init__(self, idp: Idp, http: httpx.AsyncClient) -> None:
        self.idp = idp
        self.cookies: dict[str, str] = {}
        self.verifier = secrets.token_urlsafe(48)
        self._http = http

    async def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Send a request, and follow redirects within the issuer."""
        for _ in range(5):
            headers = {"Accept": "text/html"}
            if self.cookies:
                headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
            answer = await self._http.request(method, url, headers=headers, **more)
            self._remember(answer)
            target = answer.headers.get("location", "")
            if not target.startswith(f"{self.idp.base_url}/"):
                return answer
            method, url, more = "GET", target, {}
        raise AssertionError("too many redirects")

    def _remember(self, answer: httpx.Response) -> None:
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value

    @property
    def challenge(self) -> dict[str, str]:
        """The PKCE challenge of the verifier."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return {"code_challenge": value, "code_challenge_method": "S256"}

    def query(self, **more: str) -> dict[str, str]:
        """Return the parameters of a valid authorization request, without empty ones."""
        query = {
            "response_type": "code",
            "client_id": CONSOLE,
            "redirect_uri": REDIRECT,
            "scope": "openid read:users",
            "state": "the-state",
            "nonce": "the-nonce",
            **self.challenge,
        } | more
        return {name: value for name, value in query.items() if value}

    async def open(self, **more: str) -> httpx.Response:
        """Open the authorization endpoint."""
        return await self.request("GET", self.idp.url("auth"), params=self.query(**more))

    async def submit(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """Submit the form of a page."""
        form = form_of(page)
        return await self.request("POST", form.action, data=form.fields | fields)

    async def decide(
        self, page: httpx.Response, answer: str = "accept", user: str = "alice"
    ) -> httpx.Response:
        """Sign in if the page asks for it, and accept or cancel what the next page asks."""
        if is_login_page(page):
            page = await self.submit(page, username=user, password=user)
        form = form_of(page)
        other = {"accept": "cancel", "cancel": "accept"}[answer]
        kept = {name: value for name, value in form.fields.items() if name != other}
        return await self.request("POST", form.action, data=kept)

    async def sign_in(self, user: str = "alice", **more: str) -> dict[str, str]:
        """Sign in on the login page, and return the parameters of the redirect to the client."""
        page = await self.open(**more)
        return sent_back(await self.submit(page, username=user, password=user))

    async def exchange(self, code: str, **more: str) -> httpx.Response:
        """Exchange a code for tokens, without empty parameters."""
        form = {
            "grant_type": "authorization_code",
            "client_id": CONSOLE,
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": self.verifier,
        } | more
        return await self.idp.token(**{name: value for name, value in form.items() if value})

    async def tokens(self, user: str = "alice", **more: str) -> Json:
        """Sign in, and return the tokens."""
        return granted(await self.exchange((await self.sign_in(user, **more))["code"]))


def sent_back(response: httpx.Response, target: str = REDIRECT) -> dict[str, str]:
    """Return the parameters of a redirect to the client."""
    assert response.status_code in {302, 303}, response.text
    location = response.headers["location"]
    assert location.startswith(target), location
    parts = urlsplit(location)
    return {name: values[0] for name, values in parse_qs(parts.query or parts.fragment).items()}


def no_cookies() -> CookieJar:
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))


@asynccontextmanager
async def open_embedded(_: Idp, raw: Json) -> AsyncIterator[Idp]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "realm.json"
        file.write_text(json.dumps(raw), encoding="utf-8")
        realm = load_realm(file, {})
    async with (
        run_issuer(realm, admin_password=ADMIN_PASSWORD) as running,
        httpx.AsyncClient(cookies=no_cookies(), verify=tls_context()) as http,
    ):
        yield Idp(running.base_url, http, open_embedded, ADMIN_PASSWORD, raw["realm"])


@asynccontextmanager
async def open_in_keycloak(idp: Idp, raw: Json) -> AsyncIterator[Idp]:
    made = await idp.admin("POST", "", raw)
    assert made.status_code == 201, made.text
    # The administrator's token does not cover a realm that is younger than itself.
    other = Idp(idp.base_url, idp.http, open_in_keycloak, idp.admin_password, raw["realm"])
    try:
        yield other
    finally:
        assert (await other.admin("DELETE", f"/{raw['realm']}")).status_code == 204
