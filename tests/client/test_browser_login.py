"""Authorization code over a loopback redirect: what it accepts from browsers and issuers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gatehouse.client import LoginCancelled, OAuthClient, TokenResponse, login_in_browser
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime

CLIENT = "console"
Change = dict[str, Any]


@dataclass
class Login:
    """A login that waits for its redirect."""

    http: httpx.AsyncClient
    query: dict[str, str]
    task: asyncio.Task[TokenResponse]

    async def redirect(self, *more: str, method: str = "GET", **changes: Any) -> httpx.Response:
        """Send a redirect; a change to `...` removes a parameter."""
        values = {"state": self.query["state"], "code": "the-code", "iss": self.query["issuer"]} | changes
        query = {name: value for name, value in values.items() if value is not ...}
        url = httpx.URL(self.query["redirect_uri"]).copy_merge_params(query)
        return await self.http.request(method, "&".join([str(url), *more]))


@pytest.fixture
async def start(http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime) -> Any:
    @asynccontextmanager
    async def start(id_token: Change | None = None, **more: Any) -> AsyncIterator[Login]:
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def reply(request: Request) -> Reply:
            if request.form["code"] != "the-code":
                return Reply({"error": "invalid_grant"}, 400)
            claims = {"aud": CLIENT, "azp": CLIENT, "nonce": query["nonce"]} | (id_token or {})
            body = {"access_token": "access", "token_type": "Bearer", "refresh_token": "refresh"}
            return Reply(body | {"id_token": idp.sign(**claims)})

        idp.answer("token", reply)
        client = OAuthClient(http, CLIENT, issuer=idp.issuer)
        task = asyncio.create_task(
            login_in_browser(client, open_browser=opened.set_result, clock=manual_time.clock, **more)
        )
        await asyncio.wait((task, opened), return_when=asyncio.FIRST_COMPLETED)
        url = httpx.URL(opened.result() if opened.done() else (await task).access_token)
        assert str(url).startswith(idp.url("auth") + "?")
        query = dict(url.params) | {"issuer": idp.issuer}
        try:
            yield Login(http, query, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return start


async def test_user_logs_in(start: Callable[..., Any], idp: LoopbackIssuer) -> None:
    async with start(scope="openid read:users", parameters={"acr_values": "mfa"}) as login:
        page = await login.redirect()
        assert page.status_code == 200
        assert "You can close this page" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        tokens = await login.task
    assert (tokens.access_token, tokens.refresh_token) == ("access", "refresh")
    query, form = login.query, idp.last("token").form
    digest = hashlib.sha256(form.pop("code_verifier").encode()).digest()
    assert query["code_challenge"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert form == {
        "grant_type": "authorization_code",
        "code": "the-code",
        "client_id": CLIENT,
        "redirect_uri": query["redirect_uri"],
    }
    assert query["redirect_uri"].startswith("http://127.0.0.1:")
    wanted = ("response_type", "client_id", "scope", "code_challenge_method", "acr_values")
    assert [query[name] for name in wanted] == ["code", CLIENT, "openid read:users", "S256", "mfa"]


async def test_requests_that_are_not_the_redirect_are_refused_and_do_not_end_the_login(
    start: Callable[..., Any], http: httpx.AsyncClient
) -> None:
    async with start() as login:
        uri = login.query["redirect_uri"]
        for answer in (
            await login.redirect(state="other"),
            await login.redirect(state=...),
            await login.redirect(state="other", error="access_denied", code=...),
            await login.redirect("code=second"),
            await login.redirect(method="POST"),
            await http.get(uri),
            await http.get(uri.replace("/callback", "/favicon.ico")),
        ):
            assert answer.status_code == 400
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(uri).port)
        writer.write(b"\xff\xfe\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert not login.task.done()
        assert (await login.redirect()).status_code == 200
        assert (await login.task).access_token == "access"


async def test_second_redirect_is_refused(start: Callable[..., Any], idp: LoopbackIssuer) -> None:
    idp.hold("token")
    async with start() as login:
        assert (await login.redirect()).status_code == 200
        with suppress(httpx.TransportError):  # nothing listens any more
            assert (await login.redirect(code="other")).status_code == 400
        await eventually(lambda: idp.request_count("token") == 1)
        with pytest.raises(httpx.TransportError):
            await login.redirect(code="other")
        idp.release("token")
        assert (await login.task).access_token == "access"
    assert idp.request_count("token") == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"iss": "https://attacker.test"}, "issuer_mismatch"),
        ({"iss": ""}, "issuer_mismatch"),
        ({"code": ...}, "malformed_response"),
        ({"code": ""}, "malformed_response"),
        ({"code": "replayed"}, "invalid_grant"),
        ({"error": "invalid_scope"}, "invalid_scope"),
        ({"error": "canary"}, "malformed_response"),
    ],
    ids=str,
)
async def test_invalid_response_ends_the_login(
    changes: Change, error: str, start: Callable[..., Any], idp: LoopbackIssuer
) -> None:
    async with start() as login:
        await login.redirect(**changes)
        with pytest.raises(TokenRequestFailed, match=f"^{error}$"):
            await login.task
    assert idp.request_count("token") == (error == "invalid_grant")


@pytest.mark.parametrize("supported", [True, False])
async def test_missing_issuer_is_refused_if_the_metadata_promises_it(
    supported: bool, start: Callable[..., Any], idp: LoopbackIssuer
) -> None:
    idp.answer(
        METADATA, Reply(idp.metadata() | {"authorization_response_iss_parameter_supported": supported})
    )
    async with start() as login:
        await login.redirect(iss=...)
        if supported:
            with pytest.raises(TokenRequestFailed, match="issuer_mismatch"):
                await login.task
        else:
            assert (await login.task).access_token == "access"


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "other"},
        {"nonce": ...},
        {"iss": "https://attacker.test"},
        {"aud": "other"},
        {"aud": ...},
        {"azp": "other"},
        {"exp": 0},
        {"exp": "soon"},
        {"exp": ...},
    ],
    ids=str,
)
async def test_id_token_of_another_login_is_refused(claims: Change, start: Callable[..., Any]) -> None:
    async with start(id_token=claims) as login:
        await login.redirect()
        with pytest.raises(TokenRequestFailed, match="id_token_invalid"):
            await login.task


async def test_missing_id_token_is_refused_only_if_requested(
    start: Callable[..., Any], idp: LoopbackIssuer
) -> None:
    for scope in ("read:users", "openid"):
        async with start(scope=scope) as login:
            idp.answer("token", Reply({"access_token": "access", "token_type": "Bearer"}))
            await login.redirect()
            if scope == "openid":
                with pytest.raises(TokenRequestFailed, match="id_token_invalid"):
                    await login.task
            else:
                await login.task


async def test_user_who_declines_or_waits_too_long_has_cancelled(start: Callable[..., Any]) -> None:
    async with start() as login:
        page = await login.redirect(error="access_denied", code=...)
        assert "You are not logged in" in page.text
        with pytest.raises(LoginCancelled, match="access_denied"):
            await login.task
    async with start(timeout=0.0) as login:
        with pytest.raises(LoginCancelled, match="timeout"):
            await login.task


async def test_port_in_use_is_an_error_before_the_browser_opens(start: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await login_in_browser_on(start, taken.getsockname()[1])


async def test_state_of_an_earlier_login_is_refused(start: Callable[..., Any]) -> None:
    async with start() as earlier:
        await earlier.redirect()
        await earlier.task
    async with start() as login:
        assert (await login.redirect(state=earlier.query["state"])).status_code == 400
        assert not login.task.done()
        await login.redirect()
        assert (await login.task).access_token == "access"


async def test_logins_at_the_same_time_do_not_take_each_others_redirects(start: Callable[..., Any]) -> None:
    async with start() as one, start() as other:
        assert one.query["redirect_uri"] != other.query["redirect_uri"]
        assert (await one.redirect(state=other.query["state"])).status_code == 400
        assert (await other.redirect()).status_code == 200
        assert not one.task.done()
        assert (await other.task).access_token == "access"


async def test_no_other_program_can_listen_on_the_port_of_a_login(start: Callable[..., Any]) -> None:
    async with start() as login:
        port = httpx.URL(login.query["redirect_uri"]).port
        with socket.socket() as attacker:
            attacker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attacker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                attacker.bind(("127.0.0.1", port))


async def login_in_browser_on(start: Callable[..., Any], port: int) -> None:
    async with start(port=port) as login:
        await login.task


async def test_issuer_without_an_authorization_endpoint_is_named(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    metadata = idp.metadata()
    del metadata["authorization_endpoint"]
    idp.answer(METADATA, Reply(metadata))
    with pytest.raises(IssuerUnavailable, match="authorization_endpoint_missing"):
        await login_in_browser(OAuthClient(http, CLIENT, issuer=idp.issuer), open_browser=pytest.fail)
