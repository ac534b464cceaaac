"""Authorization code flow with the login page: RFC 6749 section 4.1, RFC 7636, RFC 9207."""

import pytest

from tests.issuers.idp import (
    CONSOLE,
    Browser,
    Idp,
    Json,
    claims_of,
    client_of,
    fields_of,
    granted,
    is_login_page,
    refusal,
    sent_back,
)
from tests.support.eventually import eventually


async def test_user_logs_in(idp: Idp, browser: Browser) -> None:
    page = await browser.open()
    assert is_login_page(page)
    assert "frame-ancestors" in page.headers["content-security-policy"]
    assert "no-store" in page.headers["cache-control"]
    answer = sent_back(await browser.submit(page, username="alice", password="alice"))
    assert answer.keys() == {"code", "iss", "session_state", "state"}
    assert (answer["state"], answer["iss"]) == ("the-state", idp.issuer)
    tokens = granted(await browser.exchange(answer["code"]))
    assert tokens["session_state"] == answer["session_state"]
    assert set(tokens["scope"].split()) == {"openid", "read:users"}
    identity = claims_of(tokens["id_token"])
    assert (identity["nonce"], identity["aud"], identity["typ"]) == ("the-nonce", CONSOLE, "ID")
    access = claims_of(tokens["access_token"])
    assert (access["acr"], access["sub"]) == ("1", "00000000-0000-4000-8000-0000000a11ce")
    assert isinstance(access["auth_time"], int)
    assert access["auth_time"] == identity["auth_time"]
    assert access["sid"] == identity["sid"] == answer["session_state"]


async def test_redirect_to_any_port_of_loopback_is_accepted(browser: Browser) -> None:
    target = "http://127.0.0.1:61234/callback"
    code = sent_back(
        await browser.submit(await browser.open(redirect_uri=target), username="bob", password="bob"), target
    )
    granted(await browser.exchange(code["code"], redirect_uri=target))


async def test_redirect_to_the_ipv6_loopback_address_is_accepted(browser: Browser) -> None:
    assert is_login_page(await browser.open(redirect_uri="http://[::1]:61234/callback"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"code_challenge": "", "code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": "openid nothing"}, "invalid_scope"),
        ({"response_type": "token"}, "unauthorized_client"),
        ({"response_type": "nothing"}, "unsupported_response_type"),
        ({"response_type": ""}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_invalid_authorization_request_is_refused_by_redirect(
    idp: Idp, browser: Browser, change: dict[str, str], error: str
) -> None:
    answer = sent_back(await browser.open(**change))
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "the-state", idp.issuer)
    assert "code" not in answer


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "nobody"},
        {"client_id": ""},
        {"client_id": "gatehouse-worker"},
        {"redirect_uri": ""},
        {"redirect_uri": "http://127.0.0.1:4567/elsewhere"},
        {"redirect_uri": "http://127.0.0.1:4567/callback/"},
        {"redirect_uri": "http://127.0.0.1:4567/callback?more=1"},
        {"redirect_uri": "http://127.0.0.1:4567/callback#part"},
        {"redirect_uri": "http://localhost:4567/callback"},
        {"redirect_uri": "http://127.0.0.1.example.test/callback"},
        {"redirect_uri": "http://127.0.0.1:4567@example.test/callback"},
        {"redirect_uri": "https://127.0.0.1:4567/callback"},
        {"redirect_uri": "https://example.test/callback"},
        {"redirect_uri": "http://[:4567/callback"},
    ],
)
async def test_wrong_client_or_redirect_uri_shows_a_page_instead_of_redirecting(
    browser: Browser, change: dict[str, str]
) -> None:
    page = await browser.open(**change)
    assert page.status_code == 400
    assert "location" not in page.headers
    assert page.headers["content-type"].startswith("text/html")


async def test_wrong_verifier_spends_the_code(browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    assert refusal(await browser.exchange(code, code_verifier="x" * 50)) == (400, "invalid_grant")
    assert refusal(await browser.exchange(code)) == (400, "invalid_grant")


async def test_missing_verifier_spends_the_code(browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    assert refusal(await browser.exchange(code, code_verifier="")) == (400, "invalid_grant")
    assert refusal(await browser.exchange(code)) == (400, "invalid_grant")


async def test_code_requires_the_redirect_uri_of_its_request(browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    other = "http://127.0.0.1:4568/callback"
    assert refusal(await browser.exchange(code, redirect_uri=other)) == (400, "invalid_grant")


async def test_code_requires_its_client(browser: Browser) -> None:
    def second_public_client(realm: Json) -> None:
        realm["clients"].append({**client_of(realm, CONSOLE), "clientId": "second"})

    async with browser.idp.realm_like(second_public_client) as idp:
        there = Browser(idp, idp.http)
        code = (await there.sign_in())["code"]
        assert refusal(await there.exchange(code, client_id="second")) == (400, "invalid_grant")


async def test_second_use_of_a_code_ends_the_session(idp: Idp, browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    tokens = granted(await browser.exchange(code))
    assert await idp.is_active(tokens["access_token"])
    assert refusal(await browser.exchange(code)) == (400, "invalid_grant")
    assert not await idp.is_active(tokens["access_token"])
    assert refusal(await idp.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


async def test_client_without_the_standard_flow_gets_no_code(browser: Browser) -> None:
    def flow_is_off(realm: Json) -> None:
        client_of(realm, CONSOLE)["standardFlowEnabled"] = False

    async with browser.idp.realm_like(flow_is_off) as idp:
        answer = sent_back(await Browser(idp, idp.http).open())
        assert answer["error"] == "unauthorized_client"


async def test_wrong_password_shows_the_login_page_again(browser: Browser) -> None:
    page = await browser.submit(await browser.open(), username="carol", password="wrong")
    assert is_login_page(page)
    assert sent_back(await browser.submit(page, username="carol", password="carol"))["code"]


@pytest.mark.parametrize("name", ["dave", "nobody", "<script>alert(1)</script>"])
async def test_user_who_cannot_log_in_sees_the_login_page_again(browser: Browser, name: str) -> None:
    page = await browser.submit(await browser.open(), username=name, password=name)
    assert is_login_page(page)
    assert "<script>alert(1)" not in page.text


async def test_form_of_an_unknown_login_is_refused(idp: Idp, browser: Browser) -> None:
    answer = await browser.request(
        "POST",
        f"{idp.issuer}/login-actions/authenticate?session_code=x",
        data={"username": "alice", "password": "alice"},
    )
    assert answer.status_code == 400
    assert "location" not in answer.headers


async def test_cookie_is_enough_for_the_second_request(browser: Browser) -> None:
    first = await browser.tokens()
    second = granted(await browser.exchange(sent_back(await browser.open())["code"]))
    assert claims_of(second["access_token"])["sid"] == claims_of(first["access_token"])["sid"]
    assert claims_of(second["access_token"])["acr"] == "0"


async def test_cookie_is_enough_for_a_silent_request(browser: Browser) -> None:
    await browser.tokens()
    assert sent_back(await browser.open(prompt="none"))["code"]


async def test_prompt_login_asks_for_the_password_again(browser: Browser) -> None:
    await browser.tokens()
    page = await browser.open(prompt="login")
    answer = sent_back(await browser.submit(page, password="alice"))
    assert claims_of(granted(await browser.exchange(answer["code"]))["access_token"])["acr"] == "1"


async def test_max_age_asks_for_the_password_again(browser: Browser) -> None:
    await browser.tokens()
    assert sent_back(await browser.open(max_age="3600"))["code"]

    async def asked() -> bool:
        return "password" in fields_of(await browser.open(max_age="0"))

    await eventually(asked)


async def test_second_login_keeps_the_session_and_renews_auth_time(browser: Browser) -> None:
    first = claims_of((await browser.tokens())["access_token"])

    async def login_is_newer() -> bool:
        page = await browser.open(prompt="login")
        code = sent_back(await browser.submit(page, password="alice"))["code"]
        found = claims_of(granted(await browser.exchange(code))["access_token"])
        assert found["sid"] == first["sid"]
        return bool(found["auth_time"] > first["auth_time"])

    await eventually(login_is_newer)


async def test_second_login_requires_the_same_user(browser: Browser) -> None:
    await browser.tokens()
    page = await browser.submit(await browser.open(prompt="login"), username="bob", password="bob")
    assert page.status_code == 200
    assert "password" in fields_of(page)


async def test_userinfo_returns_claims_of_the_user(idp: Idp, browser: Browser) -> None:
    tokens = await browser.tokens()
    answer = await idp.http.get(
        idp.url("userinfo"), headers={"Authorization": f"Bearer {tokens['access_token']}"}
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "sub": claims_of(tokens["access_token"])["sub"],
        "preferred_username": "alice",
        "name": "Alice Example",
        "email": "alice@example.test",
        "email_verified": True,
    }


async def test_userinfo_refuses_other_tokens(idp: Idp) -> None:
    url = idp.url("userinfo")
    for token, status in (("garbage", 401), (await idp.user_token(), 403)):
        answer = await idp.http.get(url, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    answer = await idp.http.get(url)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, f'Bearer realm="{idp.realm}"')
