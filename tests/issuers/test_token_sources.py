"""The token sources of gatehouse.client: each flow, refresh with rotation, and revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx
import pytest

from gatehouse.client import (
    ClientAuth,
    ClientCredentials,
    ClientSecretBasic,
    ClientSecretPost,
    DevicePrompt,
    Login,
    LoginCancelled,
    LoginRequired,
    MemoryStore,
    OAuthClient,
    PasswordGrant,
    Refresh,
    TokenManager,
    TokenResponse,
    login_in_browser,
    login_on_device,
)
from gatehouse.oauth import TokenRequestFailed
from tests.issuers.idp import CONSOLE, Browser, Idp
from tests.support.issuer import SECRETS

WORKER = "gatehouse-worker"
SECRET = SECRETS[WORKER]
SCOPE = "openid read:users"


def console(idp: Idp) -> OAuthClient:
    return OAuthClient(idp.http, CONSOLE, issuer=idp.issuer)


async def client_credentials(idp: Idp, auth: ClientAuth) -> TokenResponse:
    client = OAuthClient(idp.http, WORKER, auth, issuer=idp.issuer)
    return await ClientCredentials(client, "read:users").request()


async def secret_in_header(idp: Idp, _: Browser) -> TokenResponse:
    return await client_credentials(idp, ClientSecretBasic(SECRET))


async def secret_in_form(idp: Idp, _: Browser) -> TokenResponse:
    return await client_credentials(idp, ClientSecretPost(SECRET))


async def in_browser(idp: Idp, browser: Browser, client: OAuthClient | None = None) -> TokenResponse:
    visits = []

    async def visit(url: str) -> None:
        page = await browser.request("GET", url)
        redirect = await browser.submit(page, username="alice", password="alice")
        assert (await idp.http.get(redirect.headers["location"])).status_code == 200

    def open_browser(url: str) -> None:
        visits.append(asyncio.create_task(visit(url)))

    try:
        return await login_in_browser(client or console(idp), SCOPE, open_browser=open_browser)
    finally:
        await asyncio.gather(*visits)


async def on_device(idp: Idp, browser: Browser, answer: str = "accept") -> TokenResponse:
    visits = []

    async def visit(prompt: DevicePrompt) -> None:
        await browser.decide(await browser.request("GET", prompt.verification_uri_complete), answer)

    def show(prompt: DevicePrompt) -> None:
        visits.append(asyncio.create_task(visit(prompt)))

    async def sleep(_: float) -> None:
        await asyncio.gather(*visits)  # instead of the interval

    return await login_on_device(console(idp), show, SCOPE, sleep=sleep)


async def with_password(idp: Idp, _: Browser) -> TokenResponse:
    with pytest.warns(UserWarning, match="the password grant is legacy"):
        grant = PasswordGrant(console(idp), "alice", "alice", SCOPE)
    return await grant.request()


Flow = Callable[[Idp, Browser], Awaitable[TokenResponse]]
CLIENT_FLOWS: list[Flow] = [secret_in_header, secret_in_form]
USER_FLOWS: list[Flow] = [in_browser, on_device, with_password]


@pytest.mark.parametrize("flow", CLIENT_FLOWS)
async def test_client_obtains_its_token(flow: Flow, idp: Idp, browser: Browser) -> None:
    response = await flow(idp, browser)
    found = await idp.introspect(response.access_token)
    assert (found["client_id"], found["username"]) == (WORKER, f"service-account-{WORKER}")
    assert (found["scope"], response.scope) == ("read:users", "read:users")
    assert (response.expires_in, response.refresh_token) == (300, None)


@pytest.mark.parametrize("auth", [ClientSecretBasic("wrong"), ClientSecretPost("wrong")])
async def test_wrong_secret_is_refused(auth: ClientAuth, idp: Idp) -> None:
    with pytest.raises(TokenRequestFailed) as caught:
        await client_credentials(idp, auth)
    assert caught.value.error == "unauthorized_client"


@pytest.mark.parametrize("flow", USER_FLOWS)
async def test_user_logs_in_refreshes_and_logs_out(flow: Flow, idp: Idp, browser: Browser) -> None:
    response = await flow(idp, browser)
    found = await idp.introspect(response.access_token)
    assert (found["client_id"], found["username"]) == (CONSOLE, "alice")
    assert set(found["scope"].split()) == {"openid", "read:users"}
    assert response.id_token is not None

    store = MemoryStore()
    refresh = Refresh(console(idp), store)
    await refresh.remember(response)
    tokens = [(await refresh.request()).access_token for _ in range(3)]
    assert tokens[0] == response.access_token
    assert len(set(tokens)) == 3
    assert await idp.is_active(tokens[-1])

    login = store.load()
    assert login is not None
    assert login.refresh_token is not None
    await console(idp).revoke(login.refresh_token, "refresh_token")
    assert not await idp.is_active(tokens[-1])
    with pytest.raises(LoginRequired):
        await refresh.request()


async def test_concurrent_refreshes_keep_the_session(idp: Idp, browser: Browser) -> None:
    """The issuer ends a session whose refresh token is used twice."""
    response = await with_password(idp, browser)
    store = MemoryStore()
    await Refresh(console(idp), store).remember(response)
    login = store.load()
    assert login is not None
    store.save(Login(login.refresh_token, login.access_token, 0.0))
    managers = [TokenManager(Refresh(console(idp), store)) for _ in range(8)]
    tokens = set(await asyncio.gather(*(manager.token() for manager in managers)))
    assert len(tokens) == 1
    assert tokens != {response.access_token}
    assert await idp.is_active(tokens.pop())


async def test_user_declines_on_the_other_device(idp: Idp, browser: Browser) -> None:
    with pytest.raises(LoginCancelled, match="access_denied"):
        await on_device(idp, browser, "cancel")


async def test_code_of_another_login_is_refused(idp: Idp, browser: Browser) -> None:
    """An attacker who replaces the code of a redirect does not log the user in as the attacker (PKCE)."""
    visits = []
    stolen = await Browser(idp, idp.http).sign_in("bob", scope=SCOPE)

    async def visit(url: str) -> None:
        redirect = await browser.submit(await browser.request("GET", url), username="alice", password="alice")
        target = httpx.URL(redirect.headers["location"]).copy_merge_params({"code": stolen["code"]})
        assert (await idp.http.get(target)).status_code == 200

    with pytest.raises(TokenRequestFailed, match="invalid_grant"):
        await login_in_browser(
            console(idp), SCOPE, open_browser=lambda url: visits.append(asyncio.create_task(visit(url)))
        )
    await asyncio.gather(*visits)


async def test_code_cannot_be_replayed(idp: Idp, browser: Browser) -> None:
    """A second login with the code of the first fails, and ends the session of the first."""
    sent: list[dict[str, str]] = []

    class Recording(OAuthClient):
        async def request_token(self, form: Mapping[str, str | list[str]]) -> TokenResponse:
            sent.append({name: str(value) for name, value in form.items()})
            return await super().request_token(form)

    response = await in_browser(idp, browser, Recording(idp.http, CONSOLE, issuer=idp.issuer))
    assert await idp.is_active(response.access_token)
    with pytest.raises(TokenRequestFailed, match="invalid_grant"):
        await console(idp).request_token(sent[0])
    assert not await idp.is_active(response.access_token)


async def test_client_revokes_its_token(idp: Idp) -> None:
    client = OAuthClient(idp.http, WORKER, ClientSecretBasic(SECRET), issuer=idp.issuer)
    token = (await ClientCredentials(client, "read:users").request()).access_token
    assert await idp.is_active(token)
    await client.revoke(token)
    assert not await idp.is_active(token)
