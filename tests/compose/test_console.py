"""The console of the stack in a real browser, at Keycloak's own pages."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from gatehouse.client.profile import Profile
from tests.support.chromium import open_chromium
from tests.support.compose import Host, port_of

# The machine also runs the whole stack.
SECONDS = 120
BOB = "00000000-0000-4000-8000-000000000b0b"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser of this module only: the coroutines of other modules cannot run beside it."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, host: Host) -> Iterator[Page]:
    """The front page, with checks at the end: no error in its console, and no request to other websites."""
    url = f"http://127.0.0.1:{port_of('console', 8090)}"
    keycloak = host.profile.issuer.partition("/realms/")[0]
    errors: list[str] = []
    origins: set[str] = set()
    expect.set_options(timeout=SECONDS * 1000)
    with chromium.new_context(base_url=url) as context:
        context.set_default_timeout(SECONDS * 1000)
        opened = context.new_page()
        opened.on("console", lambda said: errors.append(said.text) if is_error(said) else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda sent: origins.add("/".join(sent.url.split("/")[:3])))
        opened.goto("/")
        yield opened
    assert errors == []
    assert origins <= {url, keycloak}


def is_error(said: ConsoleMessage) -> bool:
    """Return whether a message is an error; the page of a login that has ended has the status 401."""
    return said.type == "error" and "401 (Unauthorized)" not in said.text


def sign_in(page: Page, user: str) -> None:
    """Sign in on the page of Keycloak."""
    page.get_by_label("Username or email").fill(user)
    page.get_by_label("Password", exact=True).fill(user)
    page.get_by_role("button", name="Sign In").click()


def run_until(page: Page, cell: str) -> None:
    """Run the matrix again until it has a cell. On a busy machine, Keycloak may respond too late."""
    deadline = time.monotonic() + SECONDS
    while page.get_by_role("link", name=cell, exact=True).count() == 0:
        assert time.monotonic() < deadline, f"{cell}: not in {page.locator('main').inner_text()}"
        with page.expect_navigation():
            page.get_by_role("button", name="Run all again").click()


class KeycloakAdmin:
    """The admin API of Keycloak.

    Args:
        http: HTTP client for the URL of Keycloak.
        password: That of its administrator.
    """

    def __init__(self, http: httpx.Client, password: str) -> None:
        self._http = http
        self._password = password

    def send(self, method: str, path: str, json: object = None) -> httpx.Response:
        """Send a request about the realm, with a new token: they are valid for a minute."""
        login = {"grant_type": "password", "username": "admin", "password": self._password}
        url = "/realms/master/protocol/openid-connect/token"
        token = self._http.post(url, data=login | {"client_id": "admin-cli"}).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        done = self._http.request(method, f"/admin/realms/gatehouse/{path}", json=json, headers=headers)
        return done.raise_for_status()

    @contextmanager
    def role_of_bob(self, name: str) -> Iterator[None]:
        """Give bob a role, until the context ends."""
        path, role = f"users/{BOB}/role-mappings/realm", [self.send("GET", f"roles/{name}").json()]
        self.send("POST", path, role)
        try:
            yield
        finally:
            self.send("DELETE", path, role)


@pytest.fixture
def admin(host: Host) -> Iterator[KeycloakAdmin]:
    """The admin API, as its administrator."""
    inside = Profile.model_validate_json((host.folder / "inside.json").read_bytes())
    assert inside.issuer_admin_password is not None
    url = inside.issuer.partition("/realms/")[0]
    with httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as http:
        yield KeycloakAdmin(http, inside.issuer_admin_password.get_secret_value())


def test_person_sees_a_role_that_is_given_in_keycloak_and_signs_out_there_too(
    page: Page, admin: KeycloakAdmin
) -> None:
    page.get_by_role("link", name="Sign in").click()
    sign_in(page, "alice")
    expect(page.get_by_role("heading", name="Access matrix")).to_be_visible()
    run_until(page, "DeleteUser by bob: denied")
    page.get_by_role("link", name="DeleteUser by bob: denied").click()
    expect(page.get_by_text("The call needs all of: admin, delete:users.")).to_be_visible()
    page.get_by_role("link", name="Access matrix").first.click()
    with admin.role_of_bob("admin"):
        run_until(page, "DeleteUser by bob: allowed, was denied")

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    page.get_by_role("link", name="Sign in again").click()
    # Without the logout there, Keycloak would remember the user.
    expect(page.get_by_label("Password", exact=True)).to_be_visible()


def test_token_page_shows_what_keycloak_says_now_until_it_ends_the_login(
    page: Page, admin: KeycloakAdmin
) -> None:
    page.goto("/sign-in?return_to=/token")
    sign_in(page, "bob")
    now, claims = page.get_by_text("The issuer says that the token is valid now"), page.get_by_role("table")
    expect(now).to_be_visible()
    scope = claims.get_by_role("row", name="scope")
    with admin.role_of_bob("editor"):
        page.reload()
        expect(claims.get_by_text("the issuer says now:")).to_contain_text("editor")
        expect(scope).not_to_contain_text("write:users")
        page.get_by_role("button", name="Log in again").click()
        page.get_by_label("Password", exact=True).fill("bob")
        page.get_by_role("button", name="Sign In").click()
        expect(scope).to_contain_text("write:users")
    page.get_by_role("button", name="Refresh").click()
    expect(scope).not_to_contain_text("write:users")
    expect(now).to_be_visible()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("the token is revoked or expired")).to_be_visible()

    admin.send("POST", f"users/{BOB}/logout")
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("heading", name="Your login has ended")).to_be_visible()


def test_metrics_are_those_of_prometheus_and_traces_those_of_jaeger(page: Page) -> None:
    page.goto("/sign-in?return_to=/metrics")
    sign_in(page, "bob")
    expect(page.get_by_text("From Prometheus at http://prometheus:9090.")).to_be_visible()
    connections = page.get_by_role("table", name="Database connections in use")
    deadline = time.monotonic() + SECONDS
    while connections.count() == 0:  # until Prometheus has read the metrics
        assert time.monotonic() < deadline, page.locator("main").inner_text()
        with page.expect_navigation():
            page.get_by_role("link", name="Update").click()
    expect(connections).to_contain_text("users")
    expect(page.get_by_role("alert")).to_have_count(0)

    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Traces").click()
    page.get_by_role("region", name="All calls").get_by_role("link").first.click()
    expect(page.get_by_role("list", name="Spans").get_by_role("listitem").first).to_be_visible()


def test_console_links_to_the_other_tools(host: Host) -> None:
    with httpx.Client(trust_env=False, timeout=SECONDS, follow_redirects=True) as http:
        page = http.get(f"http://127.0.0.1:{port_of('console', 8090)}").text
        links = dict(re.findall(r'<a href="([^"]+)">(.+)</a>', page.partition("<footer>")[2]))
        assert list(links.values()) == ["Keycloak", "Traces", "Prometheus"]
        keycloak, traces, prometheus = links
        for url in (keycloak, traces, f"{prometheus}/-/healthy"):
            assert http.get(url).status_code == 200, url
