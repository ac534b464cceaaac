"""The end of sessions: logout by browser and refresh token, the administrator, disabled users."""

from tests.issuers.idp import (
    CONSOLE,
    REDIRECT,
    Browser,
    Idp,
    Json,
    claims_of,
    client_of,
    granted,
    is_login_page,
    refusal,
)


def logout(tokens: Json, **more: str) -> dict[str, str]:
    return {
        "id_token_hint": tokens["id_token"],
        "post_logout_redirect_uri": REDIRECT,
        "state": "s",
    } | more


async def test_logout_ends_the_session_and_redirects_to_the_client(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    answer = await browser.request("GET", idp.url("logout"), params=logout(tokens))
    assert (answer.status_code, answer.headers["location"]) == (302, f"{REDIRECT}?state=s")
    assert not await idp.is_active(tokens["access_token"])
    assert refusal(await idp.refresh(tokens["refresh_token"])) == (400, "invalid_grant")
    assert is_login_page(await browser.open())


async def test_logout_needs_no_cookie(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    answer = await Browser(idp, idp.http).request("GET", idp.url("logout"), params=logout(tokens))
    assert answer.status_code == 302
    assert not await idp.is_active(tokens["access_token"])


async def test_second_logout_redirects_to_the_client(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    for _ in range(2):
        answer = await browser.request("GET", idp.url("logout"), params=logout(tokens))
        assert (answer.status_code, answer.headers["location"]) == (302, f"{REDIRECT}?state=s")


async def test_logout_without_a_target_shows_a_page(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    answer = await browser.request("GET", idp.url("logout"), params={"id_token_hint": tokens["id_token"]})
    assert answer.status_code == 200
    assert not await idp.is_active(tokens["access_token"])


async def test_logout_without_a_hint_asks_first(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    page = await browser.request("GET", idp.url("logout"))
    assert page.status_code == 200
    assert await idp.is_active(tokens["access_token"])
    await browser.submit(page)
    assert not await idp.is_active(tokens["access_token"])


async def test_logout_with_an_unknown_target_is_refused_and_keeps_the_session(
    idp: Idp, browser: Browser
) -> None:
    tokens = await browser.tokens()
    answer = await browser.request(
        "GET",
        idp.url("logout"),
        params=logout(tokens, post_logout_redirect_uri="https://example.test/"),
    )
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert await idp.is_active(tokens["access_token"])


async def test_hint_that_is_not_an_id_token_is_refused(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    for hint in ("garbage", tokens["access_token"]):
        answer = await browser.request("GET", idp.url("logout"), params=logout(tokens, id_token_hint=hint))
        assert answer.status_code == 400
    assert await idp.is_active(tokens["access_token"])


async def test_refresh_token_can_log_out(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    form = {"client_id": CONSOLE, "refresh_token": tokens["refresh_token"]}
    answer = await idp.http.post(idp.url("logout"), data=form)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not await idp.is_active(tokens["access_token"])
    assert refusal(await idp.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


async def test_invalid_refresh_token_cannot_log_out(idp: Idp) -> None:
    form = {"client_id": CONSOLE, "refresh_token": "garbage"}
    assert refusal(await idp.http.post(idp.url("logout"), data=form)) == (400, "invalid_grant")


async def test_logout_by_refresh_token_requires_its_client(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    form = {
        "client_id": "gatehouse-worker",
        "client_secret": "worker-demo-secret",
        "refresh_token": tokens["refresh_token"],
    }
    assert refusal(await idp.http.post(idp.url("logout"), data=form)) == (400, "invalid_grant")
    assert await idp.is_active(tokens["access_token"])


async def test_administrator_can_end_a_session(idp: Idp) -> None:
    ended, other = await idp.user_tokens(), await idp.user_tokens()
    sid = claims_of(ended["access_token"])["sid"]
    assert (await idp.admin("DELETE", f"/{idp.realm}/sessions/{sid}")).status_code == 204
    assert not await idp.is_active(ended["access_token"])
    assert await idp.is_active(other["access_token"])
    assert (await idp.admin("DELETE", f"/{idp.realm}/sessions/{sid}")).status_code == 404


async def test_administrator_can_end_all_sessions_of_a_user(idp: Idp) -> None:
    first, second = await idp.user_token("carol"), await idp.user_token("carol")
    user = (await idp.user("carol"))["id"]
    assert (await idp.admin("POST", f"/{idp.realm}/users/{user}/logout")).status_code == 204
    assert not await idp.is_active(first)
    assert not await idp.is_active(second)


async def test_tokens_of_a_disabled_user_are_inactive(idp: Idp) -> None:
    tokens = await idp.user_tokens("carol")
    async with idp.disabled("carol"):
        assert await idp.introspect(tokens["access_token"]) == {"active": False}
        assert refusal(await idp.refresh(tokens["refresh_token"])) == (400, "invalid_grant")
        assert refusal(await idp.password_answer("carol")) == (400, "invalid_grant")
    assert await idp.is_active(tokens["access_token"])


async def test_code_of_a_disabled_user_gets_no_tokens(idp: Idp, browser: Browser) -> None:
    code = (await browser.sign_in("carol"))["code"]
    async with idp.disabled("carol"):
        assert refusal(await browser.exchange(code)) == (400, "invalid_grant")


async def test_disabled_client_gets_no_tokens(idp: Idp) -> None:
    def worker_is_off(realm: Json) -> None:
        client_of(realm, "gatehouse-worker")["enabled"] = False

    async with idp.realm_like(worker_is_off) as other:
        assert refusal(await other.service_answer()) == (401, "invalid_client")
        answer = await other.ask("token/introspect", "x", "gatehouse-worker")
        assert refusal(answer) == (401, "invalid_client")


async def test_realm_without_rotation_accepts_a_refresh_token_again(idp: Idp) -> None:
    async with idp.realm_like(lambda realm: realm.update(revokeRefreshToken=False)) as other:
        tokens = await other.user_tokens()
        for _ in range(2):
            granted(await other.refresh(tokens["refresh_token"]))
