"""A user with a computer: commands, a browser, the folder of the logins, and the development issuer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatehouse.background import BackgroundLoop
from gatehouse.client import TokenResponse
from gatehouse.client.registration import Registration
from gatehouse.client.sessions import keep_login
from gatehouse.client.stored_logins import Place, StoredLogin, StoredLogins
from gatehouse_testbed.issuer import RunningIssuer, load_realm, run_issuer
from tests.support import browser
from tests.support.cli import Cli, Done, start
from tests.support.issuer import REALM_FILE, SECRETS


@pytest.fixture(scope="module")
def running() -> Iterator[RunningIssuer]:
    """The development issuer, in a thread."""
    ready: Future[RunningIssuer] = Future()
    with BackgroundLoop() as background:
        stop = asyncio.Event()

        async def run() -> None:
            async with run_issuer(load_realm(REALM_FILE, os.environ)) as running:
                ready.set_result(running)
                await stop.wait()

        ended = background.submit(run())
        yield ready.result(60)

        async def set_stop() -> None:
            stop.set()

        background.run(set_stop())
        ended.result(60)


@dataclass
class Home:
    """A user with a computer: commands, and the folder of the logins."""

    cli: Cli
    issuer: str
    logins: Path
    profile: Path
    environment: dict[str, str]

    def browse(self, *arguments: str, form: str = "username=alice&password=alice") -> Done:
        """Run a command that opens a browser, which fills in `form`."""
        program = f"{sys.executable} {browser.__file__} {form} %s"
        # `webbrowser` reads BROWSER once in a process, so it gets a process of its own.
        with start(*arguments, BROWSER=program, **self.environment) as process:
            out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def login(self, *arguments: str, form: str = "username=alice&password=alice") -> Done:
        """Log in with a browser that fills in `form`."""
        return self.browse("login", *arguments, form=form)

    def keep_alice(self, name: str = "default", scope: str = "openid", place: Place = "file") -> None:
        """Keep a login of alice as if she had just logged in, without starting a process."""
        form = {"grant_type": "password", "client_id": "gatehouse-console", "scope": scope}
        form |= {"username": "alice", "password": "alice"}
        body = httpx.post(f"{self.issuer}/protocol/openid-connect/token", data=form).json()
        response = TokenResponse(
            body["access_token"], "Bearer", body["expires_in"], body["scope"], body["refresh_token"]
        )
        registration = Registration(issuer=self.issuer, client_id="gatehouse-console", scope=scope)
        login = StoredLogin(registration=registration, flow="browser", place=place, user="alice")
        asyncio.run(keep_login(StoredLogins(self.logins), name, login, response))

    def worker(self, *arguments: str) -> Done:
        """Log in as the worker, which needs no browser, under the name `worker`."""
        return self.cli(
            *("login", "worker", "--client-credentials", "--client-id", "gatehouse-worker"),
            *("--scope", "read:users", *arguments),
        )

    def whoami(self, *arguments: str) -> dict[str, Any]:
        """Return who a login is."""
        done = self.cli("whoami", *arguments, "--format", "json")
        assert done.code == 0, done.err
        found: dict[str, Any] = json.loads(done.out)
        return found

    def tokens(self, name: str = "default") -> dict[str, Any]:
        """Return the tokens of a login, from its file."""
        found: dict[str, Any] = json.loads((self.logins / name / "tokens.json").read_text())
        return found

    def write_tokens(self, **changes: Any) -> None:
        """Change the stored tokens of the default login."""
        (self.logins / "default" / "tokens.json").write_text(json.dumps(self.tokens() | changes))

    def is_active(self, token: str) -> bool:
        """Return whether a token is active at the issuer."""
        done = self.cli("token", "introspect", "-", given=token)
        return bool(json.loads(done.out)["active"])


@pytest.fixture
def home(cli: Cli, running: RunningIssuer, tmp_path: Path) -> Home:
    """A user without any login, with a profile of the development issuer."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"issuer": running.issuer, "clients": SECRETS, "plaintext": True}))
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "GATEHOUSE_PROFILE": str(profile)}
    cli.set(**environment)
    folder = tmp_path / "state" / "gatehouse" / "logins"
    return Home(cli, running.issuer, folder, profile, environment)
