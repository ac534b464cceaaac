"""`gatehouse login` and what follows, as processes of a user."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.issuers.idp import Idp, claims_of
from tests.support import browser
from tests.support.cli import Done, start
from tests.support.issuer import SECRETS


class User:
    """Runs commands with a profile of the issuer; a browser logs in as bob."""

    def __init__(self, idp: Idp, folder: Path) -> None:
        profile = folder / "profile.json"
        profile.write_text(json.dumps({"issuer": idp.issuer, "clients": SECRETS}))
        self._environment = {
            "GATEHOUSE_PROFILE": str(profile),
            "XDG_STATE_HOME": str(folder / "state"),
            "BROWSER": f"{sys.executable} {browser.__file__} username=bob&password=bob %s",
        }
        self.tokens = folder / "state" / "gatehouse" / "logins" / "default" / "tokens.json"

    async def __call__(self, *arguments: str) -> Done:
        """Run a command; the issuer may be in this process."""
        with start(*arguments, **self._environment) as process:
            out, err = await asyncio.to_thread(process.communicate, timeout=120)
        return Done(process.returncode, out, err)


@pytest.fixture
def user(idp: Idp, tmp_path: Path) -> User:
    return User(idp, tmp_path)


async def test_user_logs_in_renews_the_token_and_logs_out(idp: Idp, user: User) -> None:
    done = await user("login", "--scope", "openid read:users")
    assert (done.code, done.out) == (0, f"logged in to {idp.issuer} as bob (login default)\n"), done.err
    kept = json.loads(user.tokens.read_text())
    user.tokens.write_text(json.dumps(kept | {"expires_at": 0}))
    done = await user("whoami", "--format", "json")
    found = json.loads(done.out)
    assert (found["user"], found["renewable"]) == ("bob", True)
    assert {"openid", "read:users"} <= set(found["scopes"])
    assert set(found["roles"]) >= {"user"}
    token = (await user("token", "obtain")).out.strip()
    assert token != kept["access_token"]
    assert claims_of(token)["azp"] == "gatehouse-console"
    assert await idp.is_active(token)
    done = await user("logout")
    assert (done.code, done.out, done.err) == (0, "logged out (default)\n", "")
    assert not await idp.is_active(token)
    assert not user.tokens.exists()


async def test_logout_of_a_session_that_the_issuer_has_ended_succeeds(idp: Idp, user: User) -> None:
    await user("login", "--scope", "openid")
    kept = json.loads(user.tokens.read_text())
    await idp.ask("logout", "", "gatehouse-console", refresh_token=kept["refresh_token"])
    done = await user("logout")
    assert (done.code, done.err) == (0, "")
