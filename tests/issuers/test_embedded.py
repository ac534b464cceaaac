"""The development issuer beyond the contract that Keycloak shares: clock, realm file, address, admin API."""

from pathlib import Path

import httpx
import pytest

from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer import RealmError, load_realm, run_issuer
from tests.issuers.idp import Browser, Idp, open_embedded
from tests.support.issuer import ADMIN_PASSWORD, REALM_FILE, LiveIssuer


@pytest.fixture
def browser(issuer: LiveIssuer) -> Browser:
    """A browser at an issuer whose clock the test can move."""
    idp = Idp(issuer.running.base_url, issuer.http, open_embedded, ADMIN_PASSWORD)
    return Browser(idp, issuer.http)


async def refresh(issuer: LiveIssuer, token: str) -> httpx.Response:
    return await issuer.token(grant_type="refresh_token", client_id="gatehouse-console", refresh_token=token)


async def test_code_expires_after_a_minute(issuer: LiveIssuer, browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    issuer.clock.ahead = 61
    answer = await browser.exchange(code)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_idle_session_ends(issuer: LiveIssuer) -> None:
    token = (await issuer.user_answer()).json()["refresh_token"]
    issuer.clock.ahead = 1700
    answer = await refresh(issuer, token)
    assert answer.status_code == 200
    issuer.clock.ahead += 1801
    answer = await refresh(issuer, answer.json()["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_session_ends_after_ten_hours(issuer: LiveIssuer) -> None:
    answer = await issuer.user_answer()
    while issuer.clock.ahead < 36_000 - 1700:
        issuer.clock.ahead += 1700
        answer = await refresh(issuer, answer.json()["refresh_token"])
        assert answer.status_code == 200
    issuer.clock.ahead = 36_001
    answer = await refresh(issuer, answer.json()["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_code_of_an_ended_session_gets_no_tokens(issuer: LiveIssuer, browser: Browser) -> None:
    code = (await browser.sign_in())["code"]
    user = "00000000-0000-4000-8000-0000000a11ce"
    await browser.idp.admin("POST", f"/{browser.idp.realm}/users/{user}/logout")
    answer = await browser.exchange(code)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_token_of_the_administrator_expires_after_a_minute(issuer: LiveIssuer) -> None:
    headers = await issuer.admin()
    users = f"{issuer.running.base_url}/admin/realms/gatehouse/users?username=alice"
    assert (await issuer.http.get(users, headers=headers)).status_code == 200
    issuer.clock.ahead = 61
    assert (await issuer.http.get(users, headers=headers)).status_code == 401


async def test_admin_api_is_off_without_a_password() -> None:
    async with run_issuer(load_realm(REALM_FILE, {})) as running, httpx.AsyncClient() as http:
        answer = await http.post(f"{running.base_url}/admin/realms/gatehouse/components", json={})
        assert answer.status_code == 401
        master = f"{running.base_url}/realms/master/protocol/openid-connect/token"
        assert (await http.post(master, data={"username": "admin"})).status_code == 404


@pytest.mark.parametrize("body", [{"providerId": "x"}, [], {"providerId": "rsa-generated", "config": []}])
async def test_invalid_key_provider_is_refused(issuer: LiveIssuer, body: object) -> None:
    answer = await issuer.http.post(
        f"{issuer.running.base_url}/admin/realms/gatehouse/components",
        json=body,
        headers=await issuer.admin(),
    )
    assert answer.status_code == 400


async def test_logout_page_can_be_submitted_once(browser: Browser) -> None:
    page = await browser.request("GET", browser.idp.url("logout"))
    assert (await browser.submit(page)).status_code == 200
    assert (await browser.submit(page)).status_code == 400


async def test_invalid_repeated_or_too_large_form_is_refused(issuer: LiveIssuer) -> None:
    url = issuer.url("token")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await issuer.http.post(url, json={"grant_type": "password"})).status_code == 400
    repeated = await issuer.http.post(url, content=b"grant_type=a&grant_type=b", headers=kind)
    assert repeated.json()["error"] == "invalid_request"
    assert (await issuer.http.post(url, content=b"a=" + b"x" * 300_000, headers=kind)).status_code == 413


async def test_token_is_active_during_the_second_of_its_exp(issuer: LiveIssuer) -> None:
    token = await issuer.service_token("gatehouse-brief")
    assert (await issuer.introspect(token))["active"] is True
    issuer.clock.ahead = 2.1
    assert (await issuer.introspect(token))["active"] is False


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "localhost.example.test"])
async def test_issuer_listens_on_loopback_only(host: str) -> None:
    realm = load_realm(REALM_FILE, {})
    with pytest.raises(TestbedError, match="loopback only"):
        async with run_issuer(realm, host=host):
            pass


async def test_taken_port_is_an_error_of_one_line(issuer: LiveIssuer) -> None:
    port = int(issuer.running.base_url.rsplit(":", 1)[1])
    with pytest.raises(TestbedError, match="cannot listen"):
        async with run_issuer(issuer.realm, port=port):
            pass


def test_secret_of_the_realm_file_can_come_from_the_environment() -> None:
    realm = load_realm(REALM_FILE, {"GATEHOUSE_API_SECRET": 'with "quotes"'})
    assert realm.clients["gatehouse-api"].secret == 'with "quotes"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "invalid JSON"),
        ("[]", "must be a JSON object"),
        ('{"realm": "r", "clients": [{}]}', "not a realm"),
        ("${NOTHING}", "has no value"),
        ('{"realm": "r", "clients": [], "accessTokenLifespan": "x"}', "accessTokenLifespan: "),
    ],
)
def test_invalid_realm_file_is_an_error_of_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "realm.json"
    file.write_text(text)
    with pytest.raises(RealmError, match=message):
        load_realm(file, {})
    with pytest.raises(RealmError, match="cannot be read"):
        load_realm(tmp_path / "nothing.json", {})


BOB = "00000000-0000-4000-8000-000000000b0b"


# <part admin>
async def as_role_sync(issuer: LiveIssuer) -> dict[str, str]:
    return {"Authorization": f"Bearer {await issuer.service_token('gatehouse-role-sync', '')}"}


# </part admin>


# <part admin>
async def test_service_account_with_manage_users_can_change_roles_and_nothing_else(
    issuer: LiveIssuer,
) -> None:
    base = f"{issuer.running.base_url}/admin/realms/gatehouse"
    headers = await as_role_sync(issuer)
    mappings = f"{base}/users/{BOB}/role-mappings/realm"
    held = (await issuer.http.get(mappings, headers=headers)).json()
    available = (await issuer.http.get(f"{mappings}/available", headers=headers)).json()
    assert [r["name"] for r in held] == ["user"]
    assert [r["name"] for r in available] == ["admin", "editor"]
    admin = available[0]
    token = await issuer.user_token("bob", "read:users admin")
    for method, roles in (("POST", ["admin", "user"]), ("POST", ["admin", "user"]), ("DELETE", ["user"])):
        answer = await issuer.http.request(method, mappings, headers=headers, json=[admin])
        assert answer.status_code == 204
        found = await issuer.introspect(token)
        assert found["realm_access"] == {"roles": roles}
        assert found["scope"] == "read:users"
    for path in (f"{base}/roles/admin", base + "/components"):
        method = "POST" if path.endswith("components") else "GET"
        answer = await issuer.http.request(method, path, headers=headers, json={})
        assert (answer.status_code, answer.json()) == (403, {"error": "HTTP 403 Forbidden"})


# </part admin>


async def test_administrator_can_look_up_roles_and_users(issuer: LiveIssuer) -> None:
    base = f"{issuer.running.base_url}/admin/realms/gatehouse"
    headers = await issuer.admin()

    async def get(path: str) -> httpx.Response:
        return await issuer.http.get(f"{base}/{path}", headers=headers)

    assert (await get("roles/admin")).json()["name"] == "admin"
    assert (await get("roles/nothing")).json() == {"error": "Could not find role"}
    for query in ("username=bob&exact=true", "email=bob@example.test&exact=true", "username=BO"):
        assert [u["username"] for u in (await get(f"users?{query}")).json()] == ["bob"]
    assert (await get("users?username=bo&exact=true")).json() == []
    assert (await get(f"users/{BOB}")).json()["email"] == "bob@example.test"
    for path in ("users/nobody", "users/nobody/role-mappings/realm"):
        answer = await get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "User not found"})


# <part admin>
@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "unknown_error"),
        (b"[1]", 400, "unknown_error"),
        (b'[{"name": "admin"}]', 404, "Role not found"),
        (b'[{"name": "admin", "id": "x"}]', 404, "Role not found"),
        (b'[{"name": "nothing", "id": "x"}]', 404, "Role not found"),
        (b" " * 70_000, 413, "invalid_request"),
    ],
)
async def test_body_that_is_not_a_list_of_known_roles_is_refused(
    issuer: LiveIssuer, body: bytes, status: int, error: str
) -> None:
    mappings = f"{issuer.running.base_url}/admin/realms/gatehouse/users/{BOB}/role-mappings/realm"
    answer = await issuer.http.post(mappings, headers=await as_role_sync(issuer), content=body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


# </part admin>


# <part admin>
async def test_admin_api_refuses_invalid_and_expired_tokens(issuer: LiveIssuer) -> None:
    mappings = f"{issuer.running.base_url}/admin/realms/gatehouse/users/{BOB}/role-mappings/realm"
    headers = await as_role_sync(issuer)
    assert (await issuer.http.get(mappings, headers=headers)).status_code == 200
    basic = {"Authorization": headers["Authorization"].replace("Bearer", "Basic")}
    assert (await issuer.http.get(mappings, headers=basic)).status_code == 401
    worker = {"Authorization": f"Bearer {await issuer.service_token()}"}
    assert (await issuer.http.get(mappings, headers=worker)).status_code == 403
    issuer.clock.ahead = 400.0
    assert (await issuer.http.get(mappings, headers=headers)).status_code == 401


# </part admin>
