"""Sign in and out, with the development issuer."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack

import jwt
from pydantic import SecretStr

from gatehouse.client.profile import Profile
from tests.console.browser import Browser
from tests.console.conftest import ORIGIN, OpenBrowser, open_console, sign_in_at
from tests.support.issuer import LiveIssuer
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer


async def test_user_signs_in_and_is_returned_to_the_page(browser: Browser) -> None:
    page = await browser.get("/nothing/here")
    assert (page.status_code, "Sign out" in page.text) == (404, False)
    page = await browser.sign_in("alice", return_to="/nothing/here")
    assert str(page.url) == f"{ORIGIN}/nothing/here"
    assert '<span class="user">alice</span>' in page.text


async def test_page_that_needs_a_session_offers_to_sign_in_and_return(browser: Browser) -> None:
    page = await browser.get("/cell/you/a.B/C")
    assert page.status_code == 401
    assert 'href="/sign-in?return_to=/cell/you/a.B/C"' in page.text
    assert "set-cookie" not in page.headers


async def test_request_to_the_issuer_has_pkce_state_nonce_and_all_scopes_of_the_policy(
    browser: Browser,
) -> None:
    await browser.get("/sign-in")
    query = browser.seen[-1].request.url.params
    assert query["client_id"] == "gatehouse-console"
    assert query["code_challenge_method"] == "S256"
    assert query["redirect_uri"] == f"{ORIGIN}/callback"
    assert set(query["scope"].split()) >= {"openid", "read:users", "admin"}
    assert min(len(query[name]) for name in ("state", "nonce", "code_challenge")) >= 43


async def test_no_token_reaches_the_browser_until_it_signs_out(browser: Browser) -> None:
    await browser.sign_in()
    await browser.get("/nothing")
    received = "".join(f"{answer.headers} {answer.text}" for answer in browser.seen)
    assert re.findall(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", received) == []


async def test_sign_out_ends_the_session_here_and_at_the_issuer(
    browser: Browser, issuer: LiveIssuer, profile: Profile
) -> None:
    page = await browser.sign_in(return_to="/nothing")
    form_targets = re.search(r"form-action ([^;]+);", page.headers["content-security-policy"])
    assert form_targets is not None
    # Chromium checks the redirect of a form too.
    assert form_targets[1] == f"'self' {issuer.running.base_url}"
    page = await browser.submit(page, "/sign-out")
    assert str(page.url) == f"{ORIGIN}/signed-out"
    assert "You are signed out" in page.text
    hint = next(
        a.request.url.params["id_token_hint"] for a in browser.seen if "id_token_hint" in str(a.request.url)
    )
    assert jwt.decode(hint, options={"verify_signature": False})["aud"] == "gatehouse-console"
    assert (await browser.get("/cell/you/x")).status_code == 401
    # The issuer asks for the password again.
    assert "Password" in (await browser.open_login_page()).text


async def test_two_tabs_can_sign_in_at_once(browser: Browser) -> None:
    first, second = await browser.open_login_page("/one"), await browser.open_login_page("/two")
    pages = [
        await browser.get(str((await browser.enter_password(tab)).headers["location"]))
        for tab in (second, first)
    ]
    assert [str(page.url) for page in pages] == [f"{ORIGIN}/two", f"{ORIGIN}/one"]


async def test_declined_login_is_explained(browser: Browser) -> None:
    page = await browser.open_login_page()
    state = page.request.url.params["state"]
    issuer = str(page.request.url).partition("/protocol/")[0]
    page = await browser.get(f"/callback?error=access_denied&state={state}&iss={issuer}")
    assert (page.status_code, "You declined at the issuer" in page.text) == (403, True)


async def test_cookies_over_https_are_bound_to_the_host(stack: AsyncExitStack, profile: Profile) -> None:
    browser = (await open_console(stack, profile, "https://console.example.test"))()
    page = await browser.http.get("https://console.example.test/sign-in")
    cookie = page.headers["set-cookie"]
    assert re.fullmatch(
        r"__Host-gatehouse-sign-in-\w{12}=[\w-]{43}; HttpOnly; Max-Age=600; Path=/; SameSite=lax; Secure",
        cookie,
    )
    assert page.headers["strict-transport-security"].startswith("max-age=")


async def test_session_cookie_is_for_this_session_and_not_for_scripts(open_browser: OpenBrowser) -> None:
    browser = open_browser()
    await browser.sign_in(return_to="/nothing")
    cookies = [line for a in browser.seen for line in a.headers.get_list("set-cookie") if "session=" in line]
    assert len(cookies) == 1
    assert re.fullmatch(r"gatehouse-session=[\w-]{43}; HttpOnly; Path=/; SameSite=lax", cookies[0])


async def test_issuer_that_is_down_is_named_and_the_console_stays_usable(
    stack: AsyncExitStack, profile: Profile
) -> None:
    away = profile.model_copy(update={"issuer": "http://127.0.0.1:1/realms/gatehouse"})
    browser = (await open_console(stack, away))()
    page = await browser.get("/sign-in")
    assert page.status_code == 503
    assert "The issuer does not respond" in page.text
    assert "http://127.0.0.1:1/realms/gatehouse" in page.text
    assert (await browser.get("/cell/you/x")).status_code == 401


async def test_passwords_of_the_demo_realm_are_shown_on_loopback_only(
    stack: AsyncExitStack, profile: Profile
) -> None:
    demo = profile.model_copy(update={"passwords": {"bob": SecretStr("canary-password")}})
    shown = [
        "canary-password" in (await (await open_console(stack, demo, origin))().get("/")).text
        for origin in (ORIGIN, "https://console.example.test")
    ]
    assert shown == [True, False]


async def test_login_that_the_issuer_has_ended_asks_to_sign_in_again(
    at_idp: Browser, idp: LoopbackIssuer
) -> None:
    page = await sign_in_at(idp, at_idp, refresh=Reply({"error": "invalid_grant"}, 400))
    assert (page.status_code, "Your login has ended" in page.text) == (401, True)
    assert "Your login has ended" in (await at_idp.get("/")).text


async def test_refresh_that_fails_names_the_issuer_and_keeps_the_session(
    at_idp: Browser, idp: LoopbackIssuer
) -> None:
    page = await sign_in_at(idp, at_idp, refresh=Reply(b"", 503))
    assert (page.status_code, "The issuer does not respond" in page.text) == (503, True)
    assert idp.issuer in page.text
    assert "Sign out" in page.text


async def test_sign_out_while_the_issuer_is_down_says_that_its_session_may_go_on(
    at_idp: Browser, idp: LoopbackIssuer
) -> None:
    page = await sign_in_at(idp, at_idp)
    idp.answer("revoke", Reply(b"", 503))
    page = await at_idp.submit(page, "/sign-out")
    assert (page.status_code, "signed out here, but perhaps not there" in page.text) == (503, True)
    assert (await at_idp.get("/cell/you/x")).status_code == 401


async def test_sign_out_at_an_issuer_without_a_logout_page_revokes_the_tokens(
    at_idp: Browser, idp: LoopbackIssuer
) -> None:
    page = await sign_in_at(idp, at_idp)
    idp.answer("revoke", Reply({}))
    page = await at_idp.submit(page, "/sign-out")
    assert str(page.url) == f"{ORIGIN}/signed-out"
    assert idp.last("revoke").form["token_type_hint"] == "refresh_token"


async def test_sign_in_without_an_id_token_is_refused(at_idp: Browser, idp: LoopbackIssuer) -> None:
    page = await sign_in_at(idp, at_idp, nonce="of another login")
    assert (page.status_code, "id_token_invalid" in page.text) == (502, True)
    assert (await at_idp.get("/cell/you/x")).status_code == 401
