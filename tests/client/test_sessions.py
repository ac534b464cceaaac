"""Log out of stored logins: what counts as ended, what is kept, and who else uses the login meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gatehouse.client import Login, LoginRequired
from gatehouse.client.login_folder import has_login, logins_folder
from gatehouse.client.registration import Registration
from gatehouse.client.sessions import keep_login, log_out, open_login
from gatehouse.client.stored_logins import StoredLogin, StoredLogins
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, OAuthError, TokenRequestFailed
from gatehouse.settings import ConfigurationError
from tests.support.environment import SetEnvironment
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import METADATA, LoopbackIssuer


@pytest.fixture
async def logins(idp: LoopbackIssuer, tmp_path: Path) -> StoredLogins:
    """A login named `default`."""
    logins = StoredLogins(tmp_path / "logins")
    registration = Registration(issuer=idp.issuer, client_id="console")
    login = StoredLogin(registration=registration, flow="browser", place="file")
    response = TokenResponse("access", "Bearer", 300.0, refresh_token="refresh")
    await keep_login(logins, "default", login, response)
    return logins


async def test_both_tokens_are_revoked(logins: StoredLogins, idp: LoopbackIssuer) -> None:
    assert await log_out(logins, "default", revoke=True)
    sent = [request.form for request in idp.requests if request.method == "POST"]
    assert sent == [
        {"token": token, "token_type_hint": f"{token}_token", "client_id": "console"}
        for token in ("refresh", "access")
    ]
    with pytest.raises(LoginRequired):
        await log_out(logins, "default", revoke=True)


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        (Reply({"error": "invalid_token"}), True),  # as Keycloak, about a token that has ended
        (Reply({"error": "invalid_grant"}, 400), True),
        (Reply({"error": "unsupported_token_type"}, 400), False),
    ],
)
async def test_answer_of_the_issuer_that_ends_the_login_here(
    reply: Reply, ended: bool, logins: StoredLogins, idp: LoopbackIssuer
) -> None:
    idp.answer("revoke", reply)
    assert await log_out(logins, "default", revoke=True) is ended
    assert logins.names() == []


async def test_issuer_that_revokes_only_refresh_tokens_has_ended_the_login(
    logins: StoredLogins, idp: LoopbackIssuer
) -> None:
    def reply(request: Request) -> Reply:
        return (
            Reply() if request.form["token"] == "refresh" else Reply({"error": "unsupported_token_type"}, 400)
        )

    idp.answer("revoke", reply)
    assert await log_out(logins, "default", revoke=True)


async def test_issuer_without_revocation_is_named(logins: StoredLogins, idp: LoopbackIssuer) -> None:
    metadata = idp.metadata()
    del metadata["revocation_endpoint"]
    idp.answer(METADATA, Reply(metadata))
    assert not await log_out(logins, "default", revoke=True)
    assert logins.names() == []


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=503), IssuerUnavailable),
        (Reply(hang_up=True), IssuerUnavailable),
        (Reply({"error": "invalid_client"}, 401), TokenRequestFailed),
    ],
)
async def test_login_that_cannot_be_revoked_is_kept(
    reply: Reply, error: type[OAuthError], logins: StoredLogins, idp: LoopbackIssuer
) -> None:
    idp.answer("revoke", reply)
    with pytest.raises(error):
        await log_out(logins, "default", revoke=True)
    store = logins.store("default", "file")
    assert (logins.names(), store.load() is not None) == (["default"], True)
    assert not await log_out(logins, "default", revoke=False)
    assert (logins.names(), store.load()) == ([], None)


async def test_logout_waits_for_a_refresh_and_revokes_its_token(
    logins: StoredLogins, idp: LoopbackIssuer
) -> None:
    store = logins.store("default", "file")
    store.save(Login("refresh", "old", time.time()))
    answer = {"access_token": "new", "token_type": "Bearer", "expires_in": 300, "refresh_token": "refresh-2"}
    idp.answer("token", Reply(answer))
    idp.hold("token")
    async with open_login(logins, "default") as (tokens, _):
        refreshing = asyncio.create_task(tokens.token())
        await eventually(lambda: idp.request_count("token") == 1)
        leaving = asyncio.create_task(log_out(logins, "default", revoke=True))
        idp.release("token")
        assert await refreshing == "new"
        assert await leaving
        assert [r.form["token"] for r in idp.requests if "token_type_hint" in r.form] == ["refresh-2", "new"]
        tokens.invalidate("new")
        with pytest.raises(LoginRequired):
            await tokens.token()


def test_logins_are_in_the_state_folder_of_the_user(set_environment: SetEnvironment, tmp_path: Path) -> None:
    set_environment(XDG_STATE_HOME="relative", HOME=str(tmp_path))
    assert logins_folder() == tmp_path / ".local" / "state" / "gatehouse" / "logins"
    (tmp_path / "file").touch()
    set_environment(XDG_STATE_HOME=str(tmp_path / "file"))
    assert not has_login("default")


def test_name_of_a_login_is_no_path(set_environment: SetEnvironment) -> None:
    from gatehouse.client.login_folder import chosen_login

    set_environment(GATEHOUSE_LOGIN="../other")
    with pytest.raises(ConfigurationError, match="not a name of a login"):
        chosen_login(None)
    assert chosen_login("work") == "work"
