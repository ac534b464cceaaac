"""The embedded issuer answers as Keycloak does."""

import base64
import hashlib
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from gatehouse.issuer import IssuerError, RealmError, load_realm, run_issuer

from tests.support.issuer import REALM_FILE, SECRETS, LiveIssuer

REDIRECT = "http://127.0.0.1:4567/callback"


def claims_of(token: str) -> dict[str, object]:
    found: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return found


async def test_discovery_names_the_issuer_under_both_addresses(issuer: LiveIssuer) -> None:
    base = issuer.running.base_url
    for url in (
        f"{issuer.issuer}/.well-known/openid-configuration",
        f"{base}/.well-known/oauth-authorization-server/realms/gatehouse",
    ):
        found = (await issuer.http.get(url)).json()
        assert found["issuer"] == issuer.issuer
        assert found["token_endpoint"] == issuer.url("token")
        assert found["code_challenge_methods_supported"] == ["S256"]


async def test_a_service_token_verifies_by_the_published_keys(issuer: LiveIssuer) -> None:
    token = await issuer.service_token(scope="read:users write:users")
    keys = (await issuer.http.get(issuer.url("certs"))).json()
    assert {k["alg"] for k in keys["keys"]} == {"ES256", "RS256"}
    assert all("d" not in k for k in keys["keys"])
    header = jwt.get_unverified_header(token)
    key = next(k for k in keys["keys"] if k["kid"] == header["kid"])
    claims = jwt.decode(
        token, jwt.PyJWK(key), algorithms=["ES256"], audience="gatehouse-api", issuer=issuer.issuer
    )
    assert claims["azp"] == "gatehouse-worker"
    assert claims["scope"] == "read:users write:users"
    assert claims["realm_access"] == {"roles": ["editor", "user"]}
    assert claims["typ"] == "Bearer"
    assert claims["exp"] - claims["iat"] == 300


@pytest.mark.parametrize(
    ("user", "scopes"),
    [
        ("alice", {"read:users", "write:users", "delete:users", "admin", "manage:roles"}),
        ("bob", {"read:users"}),
        ("carol", set()),
    ],
)
async def test_a_scope_whose_gate_the_user_cannot_pass_is_dropped(
    issuer: LiveIssuer, user: str, scopes: set[str]
) -> None:
    answer = await issuer.user_answer(user, "read:users write:users delete:users admin manage:roles")
    assert set(answer.json()["scope"].split()) == scopes
    assert set(str(claims_of(answer.json()["access_token"])["scope"]).split()) == scopes


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        (
            {"grant_type": "client_credentials", "client_id": "gatehouse-worker", "client_secret": "x"},
            401,
            "unauthorized_client",
        ),
        (
            {"grant_type": "client_credentials", "client_id": "nobody", "client_secret": "x"},
            401,
            "invalid_client",
        ),
        ({"grant_type": "client_credentials", "client_id": "gatehouse-console"}, 401, "unauthorized_client"),
        (
            {
                "grant_type": "password",
                "client_id": "gatehouse-console",
                "username": "alice",
                "password": "x",
            },
            400,
            "invalid_grant",
        ),
        (
            {
                "grant_type": "password",
                "client_id": "gatehouse-console",
                "username": "dave",
                "password": "dave",
            },
            400,
            "invalid_grant",
        ),
        (
            {
                "grant_type": "password",
                "client_id": "gatehouse-console",
                "username": "alice",
                "password": "alice",
                "scope": "nothing",
            },
            400,
            "invalid_scope",
        ),
        ({"grant_type": "nothing", "client_id": "gatehouse-console"}, 400, "unsupported_grant_type"),
        ({"client_id": "gatehouse-console"}, 400, "invalid_request"),
        (
            {"grant_type": "refresh_token", "client_id": "gatehouse-console", "refresh_token": "x"},
            400,
            "invalid_grant",
        ),
        (
            {
                "grant_type": "authorization_code",
                "client_id": "gatehouse-console",
                "code": "x",
                "redirect_uri": REDIRECT,
            },
            400,
            "invalid_grant",
        ),
    ],
)
async def test_the_token_endpoint_refuses(
    issuer: LiveIssuer, form: dict[str, str], status: int, error: str
) -> None:
    answer = await issuer.token(**form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_the_api_client_has_no_token_of_its_own(issuer: LiveIssuer) -> None:
    answer = await issuer.token(
        grant_type="client_credentials", client_id="gatehouse-api", client_secret=SECRETS["gatehouse-api"]
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized_client")


async def test_bodies_that_are_no_form_repeated_or_huge_are_refused(issuer: LiveIssuer) -> None:
    url = issuer.url("token")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await issuer.http.post(url, json={"grant_type": "password"})).status_code == 400
    repeated = await issuer.http.post(url, content=b"grant_type=a&grant_type=b", headers=kind)
    assert repeated.json()["error"] == "invalid_request"
    assert (await issuer.http.post(url, content=b"a=" + b"x" * 300_000, headers=kind)).status_code == 413


async def test_introspection_shows_an_active_token_to_its_audience_only(issuer: LiveIssuer) -> None:
    token = await issuer.user_token("bob")
    found = await issuer.introspect(token)
    assert found["active"] is True
    assert (found["username"], found["client_id"], found["scope"]) == (
        "bob",
        "gatehouse-console",
        "read:users",
    )
    assert await issuer.introspect(token, "gatehouse-worker") == {"active": False}
    assert await issuer.introspect("garbage") == {"active": False}
    elsewhere = await issuer.service_token("gatehouse-elsewhere")
    assert await issuer.introspect(elsewhere) == {"active": False}


async def test_introspection_wants_a_confidential_client(issuer: LiveIssuer) -> None:
    url = issuer.url("token/introspect")
    wrong = await issuer.http.post(url, data={"token": "x"}, auth=("gatehouse-api", "wrong"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    public = await issuer.http.post(url, data={"token": "x", "client_id": "gatehouse-console"})
    assert (public.status_code, public.json()["error"]) == (403, "invalid_request")
    missing = await issuer.http.post(url, data={}, auth=("gatehouse-api", SECRETS["gatehouse-api"]))
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")
    good = await issuer.http.post(url, data={"token": "x"}, auth=("gatehouse-api", SECRETS["gatehouse-api"]))
    assert good.json() == {"active": False}


async def test_introspection_shows_roles_of_today_and_scopes_of_then(issuer: LiveIssuer) -> None:
    token = await issuer.user_token("alice", "delete:users")
    user = issuer.realm.user_named("alice")
    assert user is not None
    user.realm_roles.discard("admin")
    found = await issuer.introspect(token)
    assert found["scope"] == "delete:users"
    assert found["realm_access"] == {"roles": ["editor", "user"]}


async def test_a_token_is_active_through_the_second_of_its_exp(issuer: LiveIssuer) -> None:
    token = await issuer.service_token("gatehouse-brief")
    assert (await issuer.introspect(token))["active"] is True
    issuer.clock.ahead = 2.1
    assert (await issuer.introspect(token))["active"] is False


async def test_a_disabled_user_has_no_active_token(issuer: LiveIssuer) -> None:
    answer = (await issuer.user_answer("bob")).json()
    user = issuer.realm.user_named("bob")
    assert user is not None
    user.enabled = False
    assert await issuer.introspect(answer["access_token"]) == {"active": False}
    refreshed = await issuer.token(
        grant_type="refresh_token", client_id="gatehouse-console", refresh_token=answer["refresh_token"]
    )
    assert (refreshed.status_code, refreshed.json()["error"]) == (400, "invalid_grant")


async def test_a_refresh_token_rotates_and_its_second_use_ends_the_session(issuer: LiveIssuer) -> None:
    first = (await issuer.user_answer()).json()

    async def refresh(token: str) -> httpx.Response:
        return await issuer.token(
            grant_type="refresh_token", client_id="gatehouse-console", refresh_token=token
        )

    second = (await refresh(first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (await issuer.introspect(second["access_token"]))["active"] is True
    reused = await refresh(first["refresh_token"])
    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    assert (await refresh(second["refresh_token"])).status_code == 400
    assert (await issuer.introspect(second["access_token"]))["active"] is False


async def test_a_revoked_token_is_inactive_and_only_its_client_may_revoke_it(issuer: LiveIssuer) -> None:
    token = await issuer.user_token()
    url = issuer.url("revoke")
    other = await issuer.http.post(
        url, data={"token": token}, auth=("gatehouse-worker", SECRETS["gatehouse-worker"])
    )
    assert other.status_code == 400
    assert (await issuer.introspect(token))["active"] is True
    own = await issuer.http.post(url, data={"token": token, "client_id": "gatehouse-console"})
    assert own.status_code == 200
    assert (await issuer.introspect(token))["active"] is False
    unknown = await issuer.http.post(url, data={"token": "x", "client_id": "gatehouse-console"})
    assert (unknown.status_code, unknown.json()["error"]) == (200, "invalid_token")


async def test_revoking_a_refresh_token_ends_its_session(issuer: LiveIssuer) -> None:
    answer = (await issuer.user_answer()).json()
    data = {"token": answer["refresh_token"], "client_id": "gatehouse-console"}
    assert (await issuer.http.post(issuer.url("revoke"), data=data)).status_code == 200
    assert (await issuer.introspect(answer["access_token"]))["active"] is False


class Browser:
    """Goes through the login page as a person would."""

    def __init__(self, issuer: LiveIssuer) -> None:
        self.issuer = issuer
        self.verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(self.verifier.encode()).digest()
        self.challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def query(self, **more: str) -> dict[str, str]:
        return {
            "response_type": "code",
            "client_id": "gatehouse-console",
            "redirect_uri": REDIRECT,
            "scope": "openid read:users",
            "state": "the-state",
            "nonce": "the-nonce",
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
        } | more

    async def open(self, **more: str) -> httpx.Response:
        return await self.issuer.http.get(self.issuer.url("auth"), params=self.query(**more))

    async def sign_in(
        self, page: httpx.Response, user: str = "alice", password: str | None = None
    ) -> httpx.Response:
        match = re.search(r'action="([^"]+)"', page.text)
        assert match, page.text
        url = match[1].replace("&amp;", "&")
        return await self.issuer.http.post(url, data={"username": user, "password": password or user})

    async def code(self, user: str = "alice", **more: str) -> dict[str, str]:
        return answer_of(await self.sign_in(await self.open(**more), user))

    async def exchange(self, code: str, **more: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": "gatehouse-console",
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": self.verifier,
        }
        return await self.issuer.token(**(form | more))


def answer_of(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 302, response.text
    location = response.headers["location"]
    assert location.startswith(REDIRECT)
    return {k: v[0] for k, v in parse_qs(urlsplit(location).query).items()}


async def test_a_person_signs_in_with_pkce(issuer: LiveIssuer) -> None:
    browser = Browser(issuer)
    answer = await browser.code()
    assert (answer["state"], answer["iss"]) == ("the-state", issuer.issuer)
    tokens = (await browser.exchange(answer["code"])).json()
    assert tokens["scope"] == "openid read:users"
    identity = claims_of(tokens["id_token"])
    assert (identity["nonce"], identity["aud"], identity["typ"]) == ("the-nonce", "gatehouse-console", "ID")
    access = claims_of(tokens["access_token"])
    assert (access["acr"], access["sub"]) == ("1", "00000000-0000-4000-8000-0000000a11ce")
    assert isinstance(access["auth_time"], int)
    info = await issuer.http.get(
        issuer.url("userinfo"), headers={"Authorization": f"Bearer {tokens['access_token']}"}
    )
    assert info.json()["preferred_username"] == "alice"


async def test_a_cookie_answers_the_second_time_and_prompt_login_asks_again(issuer: LiveIssuer) -> None:
    browser = Browser(issuer)
    await browser.code()
    again = answer_of(await browser.open())
    tokens = (await browser.exchange(again["code"])).json()
    assert claims_of(tokens["access_token"])["acr"] == "0"
    assert "<form" in (await browser.open(prompt="login")).text
    assert answer_of(await Browser(issuer).open(prompt="none"))["code"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "nothing"}, "invalid_scope"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_the_authorization_endpoint_refuses_by_redirect(
    issuer: LiveIssuer, change: dict[str, str], error: str
) -> None:
    answer = answer_of(await Browser(issuer).open(**change))
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "the-state", issuer.issuer)


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "nobody"},
        {"redirect_uri": "http://127.0.0.1:4567/elsewhere"},
        {"redirect_uri": "http://localhost:4567/callback"},
        {"redirect_uri": "http://127.0.0.1.example.test/callback"},
        {"redirect_uri": "https://example.test/callback"},
        {"redirect_uri": ""},
    ],
)
async def test_a_redirect_that_is_not_registered_is_a_page_and_no_redirect(
    issuer: LiveIssuer, change: dict[str, str]
) -> None:
    page = await Browser(issuer).open(**change)
    assert page.status_code == 400
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_a_wrong_verifier_burns_the_code_and_a_second_use_ends_the_session(issuer: LiveIssuer) -> None:
    browser = Browser(issuer)
    code = (await browser.code())["code"]
    assert (await browser.exchange(code, code_verifier="x" * 50)).json()["error"] == "invalid_grant"
    assert (await browser.exchange(code)).json()["error"] == "invalid_grant"
    other = Browser(issuer)
    code = (await other.code(prompt="login"))["code"]
    tokens = (await other.exchange(code)).json()
    assert (await other.exchange(code)).json()["error"] == "invalid_grant"
    assert (await issuer.introspect(tokens["access_token"]))["active"] is False


async def test_a_wrong_password_or_a_disabled_user_stays_on_the_page(issuer: LiveIssuer) -> None:
    browser = Browser(issuer)
    page = await browser.sign_in(await browser.open(), password="wrong")
    assert "Invalid username or password" in page.text
    assert "disabled" in (await browser.sign_in(page, "dave")).text
    hostile = await browser.sign_in(page, "<script>")
    assert "<script>" not in hostile.text
    expired = await issuer.http.post(
        f"{issuer.issuer}/login-actions/authenticate?session_code=x", data={"username": "a"}
    )
    assert expired.status_code == 400


async def test_logging_out_ends_the_session(issuer: LiveIssuer) -> None:
    browser = Browser(issuer)
    tokens = (await browser.exchange((await browser.code())["code"])).json()
    page = await issuer.http.get(issuer.url("logout"))
    assert page.status_code == 200
    gone = await issuer.http.get(
        issuer.url("logout"),
        params={"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": REDIRECT, "state": "s"},
    )
    assert (gone.status_code, gone.headers["location"]) == (302, f"{REDIRECT}?state=s")
    assert (await issuer.introspect(tokens["access_token"]))["active"] is False
    second = (await issuer.user_answer()).json()
    form = {"client_id": "gatehouse-console", "refresh_token": second["refresh_token"]}
    assert (await issuer.http.post(issuer.url("logout"), data=form)).status_code == 204
    assert (await issuer.introspect(second["access_token"]))["active"] is False


async def test_a_rotated_key_signs_at_once_and_old_tokens_live_until_theirs_is_disabled(
    issuer: LiveIssuer,
) -> None:
    old = await issuer.service_token()
    place = await issuer.rotate()
    new = await issuer.service_token()
    kids = [jwt.get_unverified_header(t)["kid"] for t in (old, new)]
    assert kids[0] != kids[1]
    published = {k["kid"] for k in (await issuer.http.get(issuer.url("certs"))).json()["keys"]}
    assert published.issuperset(kids)
    assert (await issuer.introspect(old))["active"] is True
    gone = await issuer.http.delete(f"{issuer.running.base_url}{place}", headers=await issuer.admin())
    assert gone.status_code == 204
    assert (await issuer.introspect(new))["active"] is False


async def test_the_admin_calls_want_the_administrator(issuer: LiveIssuer) -> None:
    base = f"{issuer.running.base_url}/admin/realms/gatehouse"
    alice = {"Authorization": f"Bearer {await issuer.user_token()}"}
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (alice, 403)):
        answer = await issuer.http.post(f"{base}/components", json={}, headers=headers)
        assert answer.status_code == status
    user = "00000000-0000-4000-8000-0000000a11ce"
    token = await issuer.user_token()
    assert (
        await issuer.http.post(f"{base}/users/{user}/logout", headers=await issuer.admin())
    ).status_code == 204
    assert (await issuer.introspect(token))["active"] is False
    bad = await issuer.http.post(f"{base}/components", json={"providerId": "x"}, headers=await issuer.admin())
    assert bad.status_code == 400


async def test_another_realm_does_not_exist(issuer: LiveIssuer) -> None:
    answer = await issuer.http.get(f"{issuer.running.base_url}/realms/other")
    assert (answer.status_code, answer.json()) == (404, {"error": "Realm does not exist"})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "localhost.example.test"])
async def test_the_issuer_listens_on_loopback_only(host: str) -> None:
    realm = load_realm(REALM_FILE, {})
    with pytest.raises(IssuerError, match="loopback only"):
        async with run_issuer(realm, host=host):
            pass


async def test_a_port_that_is_taken_is_one_line(issuer: LiveIssuer) -> None:
    port = int(issuer.running.base_url.rsplit(":", 1)[1])
    with pytest.raises(IssuerError, match="cannot listen there"):
        async with run_issuer(issuer.realm, port=port):
            pass


def test_a_secret_of_the_realm_file_can_come_from_the_environment() -> None:
    realm = load_realm(REALM_FILE, {"GATEHOUSE_API_SECRET": 'with "quotes"'})
    assert realm.clients["gatehouse-api"].secret == 'with "quotes"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a realm"),
        ('{"realm": "r", "clients": [{}]}', "is not a realm"),
        ("${NOTHING}", "has no value"),
    ],
)
def test_a_realm_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "realm.json"
    file.write_text(text)
    with pytest.raises(RealmError, match=message):
        load_realm(file, {})
    with pytest.raises(RealmError, match="cannot be read"):
        load_realm(tmp_path / "nothing.json", {})
