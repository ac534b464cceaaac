"""Invalid and hostile requests to the development issuer."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatehouse_testbed.issuer import RealmError, load_realm
from gatehouse_testbed.issuer.client_auth import ASSERTION_TYPE
from tests.support.issuer import REALM_FILE, LiveIssuer
from tests.support.oauth_issuers import SigningKey

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ALICE = "00000000-0000-4000-8000-0000000a11ce"


async def admin(issuer: LiveIssuer, method: str, path: str, **more: object) -> httpx.Response:
    """Send a request as the administrator."""
    return await issuer.http.request(
        method,
        f"{issuer.running.base_url}/admin/realms/gatehouse/{path}",
        headers=await issuer.admin(),
        **more,
    )


async def userinfo(issuer: LiveIssuer, authorization: str) -> httpx.Response:
    return await issuer.http.get(issuer.url("userinfo"), headers={"Authorization": authorization})


@pytest.mark.parametrize("endpoint", ["token", "token/introspect", "revoke", "logout"])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"a=\xff\xfe", FORM, 400),
        (b"&".join(b"a%d=1" % number for number in range(60)), FORM, 400),
        (b"client_id=a&client_id=b", FORM, 400),
        (b"{}", {"Content-Type": "application/json"}, 400),
        (b"client_id=a", {}, 400),
        (b"a=" + b"x" * 300_000, FORM, 413),
    ],
    ids=["bytes", "fields", "repeated", "json", "no type", "huge"],
)
async def test_invalid_form_is_refused_by_every_endpoint(
    endpoint: str, body: bytes, headers: dict[str, str], status: int, issuer: LiveIssuer
) -> None:
    answer = await issuer.http.post(issuer.url(endpoint), content=body, headers=headers)

    assert (answer.status_code, answer.json()["error"]) == (status, "invalid_request")


ASSERTION_KEY = SigningKey.make("worker-key")


@pytest.fixture
async def keyed(issuer: LiveIssuer) -> AsyncIterator[LiveIssuer]:
    """The issuer, whose worker authenticates with a key for this test."""
    worker = issuer.realm.clients["gatehouse-worker"]
    jwks = json.dumps({"keys": [ASSERTION_KEY.jwk()]})
    issuer.realm.clients["gatehouse-worker"] = worker.model_copy(
        update={
            "client_authenticator_type": "client-jwt",
            "attributes": {"use.jwks.string": "true", "jwks.string": jwks},
        }
    )
    yield issuer
    issuer.realm.clients["gatehouse-worker"] = worker


async def test_assertion_with_odd_values_is_refused(keyed: LiveIssuer) -> None:
    now = int(time.time())
    good = {"iss": "gatehouse-worker", "sub": "gatehouse-worker", "aud": keyed.issuer, "iat": now}
    good |= {"exp": now + 50, "jti": "id"}

    async def ask(assertion: str) -> tuple[int, str]:
        answer = await keyed.token(
            grant_type="client_credentials",
            client_id="gatehouse-worker",
            client_assertion=assertion,
            client_assertion_type=ASSERTION_TYPE,
        )
        return answer.status_code, answer.json().get("error", "")

    odd: list[Any] = [{}, [], [[]], {"a": 1}, None, True, "", 7, 1e400, math.nan]
    for claim, value in itertools.product(good, odd):
        status, error = await ask(ASSERTION_KEY.sign(good | {claim: value}))
        assert status in {400, 401}, (claim, value)
        assert error == "invalid_client"
    for value in odd:
        for header in ({"kid": value}, {"alg": value}):
            status, error = await ask(
                ASSERTION_KEY.sign(good, {"alg": "ES256", "kid": "worker-key"} | header)
            )
            assert (status, error) == (400, "invalid_client"), header
    for part in (b"[]", b"7", b"{", b"\xff", b""):
        assert await ask(ASSERTION_KEY.sign(part)) == (400, "invalid_client")
    assert await ask(ASSERTION_KEY.sign(good)) == (200, "")


@pytest.mark.parametrize(
    "page", ["login-actions/authenticate", "protocol/openid-connect/logout/logout-confirm"]
)
async def test_form_with_an_unknown_code_has_expired(page: str, issuer: LiveIssuer) -> None:
    url = f"{issuer.issuer}/{page}?session_code=unknown"
    answer = await issuer.http.post(url, data={"username": "alice", "password": "alice"})

    assert answer.status_code == 400
    assert "expired" in answer.text


async def test_login_page_survives_invalid_submissions(issuer: LiveIssuer) -> None:
    page = await issuer.http.get(
        issuer.url("auth"),
        params={
            "response_type": "code",
            "client_id": "gatehouse-console",
            "redirect_uri": "http://127.0.0.1:4567/callback",
            "scope": "openid",
            "code_challenge": "A" * 43,
            "code_challenge_method": "S256",
        },
    )
    action = page.text.split('action="')[1].split('"')[0]

    assert (await issuer.http.post(action, json={"username": "alice"})).status_code == 400
    wrong = await issuer.http.post(action, data={"username": "<b>alice</b>", "password": "<b>"})
    assert wrong.status_code == 200
    assert "<b>" not in wrong.text
    good = await issuer.http.post(action, data={"username": "alice", "password": "alice"})
    assert good.status_code == 302
    assert "code=" in good.headers["location"]


@pytest.mark.parametrize(
    "changes",
    [{"password": "wrong"}, {"password": ""}, {"username": "alice"}, {"client_id": "gatehouse-console"}],
    ids=str,
)
async def test_administrator_needs_the_right_password(changes: dict[str, str], issuer: LiveIssuer) -> None:
    form = {
        "grant_type": "password",
        "client_id": "admin-cli",
        "username": "admin",
        "password": "for-tests-only",
    }
    url = f"{issuer.running.base_url}/realms/master/protocol/openid-connect/token"

    assert (await issuer.http.post(url, data=form)).status_code == 200
    answer = await issuer.http.post(url, data=form | changes)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_grant")
    assert (await issuer.http.post(url, json=form)).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "components/unknown", {}, 404),
        ("DELETE", "components/unknown", None, 404),
        ("DELETE", "sessions/unknown", None, 404),
        ("PUT", "users/unknown", {"enabled": False}, 404),
        ("PUT", f"users/{ALICE}", [], 400),
        ("POST", "components", "text", 400),
        ("POST", "users/unknown/logout", None, 404),
    ],
)
async def test_invalid_admin_request_changes_nothing(
    method: str, path: str, body: object, status: int, issuer: LiveIssuer
) -> None:
    before = (await issuer.http.get(issuer.url("certs"))).json()
    answer = await admin(issuer, method, path, json=body)

    assert answer.status_code == status
    assert (await issuer.http.get(issuer.url("certs"))).json() == before


async def test_invalid_change_of_a_key_changes_nothing(issuer: LiveIssuer) -> None:
    component = (await issuer.rotate()).rsplit("/", 1)[1]
    before = (await issuer.http.get(issuer.url("certs"))).json()
    answer = await admin(issuer, "PUT", f"components/{component}", json={"providerId": "unknown"})

    assert answer.status_code == 400
    assert (await issuer.http.get(issuer.url("certs"))).json() == before


async def test_only_a_boolean_disables_a_user(issuer: LiveIssuer) -> None:
    token = await issuer.user_token()
    nonsense: tuple[object, ...] = (None, 0, "false", [])
    for enabled in nonsense:
        assert (await admin(issuer, "PUT", f"users/{ALICE}", json={"enabled": enabled})).status_code == 204
    assert (await issuer.introspect(token))["active"] is True
    await admin(issuer, "PUT", f"users/{ALICE}", json={"enabled": False})
    assert (await issuer.introspect(token))["active"] is False


async def test_number_of_keys_is_bounded(issuer: LiveIssuer) -> None:
    added = 0
    for _ in range(200):
        answer = await admin(
            issuer,
            "POST",
            "components",
            json={"providerId": "ecdsa-generated", "config": {"priority": ["1"]}},
        )
        if answer.status_code == 400:
            break
        added += 1

    assert answer.status_code == 400
    assert added < 200
    published = (await issuer.http.get(issuer.url("certs"))).json()["keys"]
    assert added <= len(published) <= 64  # as many as a verifier reads


async def test_userinfo_requires_an_active_access_token_of_a_user(issuer: LiveIssuer) -> None:
    answer = (await issuer.user_answer(scope="openid")).json()
    token = answer["access_token"]
    good = await userinfo(issuer, f"Bearer {token}")
    assert (good.status_code, good.json()["sub"]) == (200, ALICE)

    for authorization in ("", f"Basic {token}", "Bearer", "Bearer junk", f"Bearer {answer['id_token']}"):
        refused = await userinfo(issuer, authorization)
        assert refused.status_code == 401
        assert "www-authenticate" in refused.headers
    service = await issuer.service_token()
    assert (await userinfo(issuer, f"Bearer {service}")).status_code == 401


async def test_userinfo_requires_the_scope_openid(issuer: LiveIssuer) -> None:
    answer = await userinfo(issuer, f"Bearer {await issuer.user_token(scope='read:users')}")

    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


async def test_userinfo_refuses_an_expired_token(issuer: LiveIssuer) -> None:
    token = (await issuer.user_answer(scope="openid")).json()["access_token"]
    issuer.clock.ahead = 3600

    assert (await userinfo(issuer, f"Bearer {token}")).json()["error"] == "invalid_token"


async def test_userinfo_refuses_a_disabled_user(issuer: LiveIssuer) -> None:
    token = (await issuer.user_answer(scope="openid")).json()["access_token"]
    await admin(issuer, "PUT", f"users/{ALICE}", json={"enabled": False})

    assert (await userinfo(issuer, f"Bearer {token}")).json()["error"] == "invalid_token"


async def test_logout_by_refresh_token_requires_its_client(issuer: LiveIssuer) -> None:
    token = (await issuer.user_answer()).json()["refresh_token"]
    for form in (
        {"client_id": "unknown", "refresh_token": token},
        {"client_id": "gatehouse-worker", "client_secret": "wrong", "refresh_token": token},
    ):
        answer = await issuer.http.post(issuer.url("logout"), data=form)
        assert answer.status_code in {400, 401}
    kept = await issuer.token(grant_type="refresh_token", client_id="gatehouse-console", refresh_token=token)
    assert kept.status_code == 200


async def test_client_with_two_different_ids_is_refused(issuer: LiveIssuer) -> None:
    answer = await issuer.http.post(
        issuer.url("token"),
        data={"grant_type": "client_credentials", "client_id": "gatehouse-admin-service"},
        auth=("gatehouse-worker", "worker-demo-secret"),
    )

    assert answer.status_code == 401
    assert "access_token" not in answer.json()


def test_unknown_scope_of_a_client_in_the_realm_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    realm = json.loads(REALM_FILE.read_text())
    realm["clients"][0].setdefault("optionalClientScopes", []).append("read:nothing")
    file = tmp_path / "realm.json"
    file.write_text(json.dumps(realm))

    with pytest.raises(RealmError, match="no client scope read:nothing; add it to clientScopes"):
        load_realm(file, {})
