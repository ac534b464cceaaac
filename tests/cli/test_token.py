"""The commands `token` at the development issuer: every flow, at any issuer, and what they refuse."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from contextlib import suppress

import pytest

from tests.support.child_coverage import measured
from tests.support.cli import clean_environment
from tests.support.command import Command
from tests.support.home import Home
from tests.support.issuer import SECRETS

CONSOLE = ("--client-id", "gatehouse-console")


def claims(home: Home, token: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(home.cli("token", "decode", "-", given=token).out)["claims"]
    return found


def test_browser_flow_stores_nothing(home: Home) -> None:
    done = home.browse("token", "obtain", "--browser", "--scope", "openid read:users")
    assert done.code == 0
    assert claims(home, done.out)["scope"] == "openid read:users"
    assert not home.logins.exists()


def test_client_credentials_flow_works_at_any_issuer(home: Home) -> None:
    home.cli.set(GATEHOUSE_PROFILE="")
    arguments = ("--client-credentials", "--issuer", home.issuer, "--client-id", "gatehouse-worker")
    for auth in ((), ("--auth", "client_secret_post")):
        done = home.cli(
            *("token", "obtain", *arguments, *auth, "--scope", "read:users", "--client-secret-file", "-"),
            given=SECRETS["gatehouse-worker"],
        )
        assert (done.code, claims(home, done.out)["azp"]) == (0, "gatehouse-worker")


def test_password_flow_warns(home: Home) -> None:
    home.cli.set(GATEHOUSE_PROFILE="")
    arguments = ("token", "obtain", "--as", "alice", "--issuer", home.issuer, *CONSOLE)
    done = home.cli(*arguments, "--scope", "read:users", "--password-file", "-", given="alice\n")
    assert done.code == 0, done.err
    assert claims(home, done.out)["sub"] == "00000000-0000-4000-8000-0000000a11ce"
    assert done.err.startswith("gatehouse: warning: the password grant is legacy")
    assert done.err.count("\n") == 1
    done = home.cli(*arguments, "--password-file", "-", given="canary")
    assert (done.code, "the issuer refused (invalid_grant)" in done.err) == (1, True)
    assert "canary" not in done.err


def ask(
    *arguments: str, typed: bytes, number: signal.Signals | None = None, **environment: str
) -> tuple[int, str]:
    """Run a command on a terminal of its own, type an answer to its question, and return what is shown."""
    controller, terminal = pty.openpty()
    process = Command[bytes](
        [sys.executable, "-m", "gatehouse", *arguments],
        env=measured(clean_environment() | environment),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    with process, open(controller, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
        while b": " not in shown:
            shown += screen.read(1024)
        os.write(controller, typed)
        if number is not None:
            process.send_signal(number)
        process.wait(60)
        with suppress(OSError):  # Linux reports the end of a terminal as an error
            while chunk := screen.read(1024):
                shown += chunk
    return process.returncode, shown.decode()


def test_typed_password_is_not_echoed(home: Home) -> None:
    command = ("token", "obtain", "--as", "alice", "--scope", "read:users")
    code, shown = ask(*command, typed=b"canary\n", **home.environment)
    assert shown.startswith("Password of alice: ")
    assert "canary" not in shown
    assert (code, "the issuer refused (invalid_grant)" in shown) == (1, True)
    code, shown = ask(*command, typed=b"can", number=signal.SIGINT, **home.environment)
    assert (code, shown.strip()) == (130, "Password of alice:")
    code, shown = ask(*command, typed=b"\x04", **home.environment)
    assert (code, "no input" in shown) == (1, True)


def test_token_of_the_login_is_exchanged_for_one_with_fewer_scopes(home: Home) -> None:
    home.keep_alice(scope="openid read:users admin")
    exchanger = ("--client", "gatehouse-admin-service")
    done = home.cli("token", "exchange", "--scope", "read:users", *exchanger)
    assert done.code == 0, done.err
    found = claims(home, done.out)
    assert (found["azp"], found["scope"]) == ("gatehouse-admin-service", "read:users")
    given = home.cli("token", "obtain").out
    done = home.cli("token", "exchange", "-", "--scope", "read:users", *exchanger, given=given)
    assert claims(home, done.out)["sub"] == found["sub"]
    done = home.cli("token", "exchange", "--scope", "read:users", "--client", "gatehouse-worker")
    assert (done.code, "the issuer refused (invalid_request)" in done.err) == (1, True)


def test_client_of_a_login_introspects_and_revokes(home: Home) -> None:
    home.worker()
    token = home.cli("token", "obtain", "--login", "worker").out
    for more in (("--client-id", "gatehouse-api"), ()):
        done = home.cli("token", "introspect", "-", *more, given=token)
        assert (done.code, json.loads(done.out)["active"]) == (0, True)
    # As in Keycloak, a client that is not in the audience may not see it.
    done = home.cli("token", "introspect", "-", "--login", "worker", given=token)
    assert (done.code, json.loads(done.out)) == (1, {"active": False})
    done = home.cli("token", "revoke", "-", "--login", "worker", given=token)
    assert (done.code, done.out) == (0, "revoked\n")
    assert not home.is_active(token)
    # Keycloak refuses the tokens of another client.
    token = home.cli("token", "obtain", "--client", "gatehouse-worker").out
    done = home.cli("token", "revoke", "-", *CONSOLE, given=token)
    assert (done.code, "the issuer refused (invalid_request)" in done.err) == (1, True)
    assert home.cli("token", "revoke", "-", "--client", "gatehouse-worker", given=token).code == 0


@pytest.mark.parametrize(
    ("arguments", "given", "code", "text"),
    [
        (["obtain", "--browser", "--device"], "", 2, "use only one of them"),
        (["obtain", "--as", "alice", "--device"], "", 2, "use only one of them"),
        (["obtain", *CONSOLE], "", 2, "add --browser, --device, --client-credentials or --as"),
        (["obtain", "--client-credentials"], "", 2, "name the client with --client-id"),
        (["obtain", "--as", "dave"], "", 2, "dave: no password in the profile"),
        (["obtain", "--as", "alice", "--password-file", "-"], "", 2, "password of alice: it is empty"),
        (["exchange", "x"], "", 2, "missing option '--scope'"),
        (["exchange", "--scope", "x"], "", 1, "no login; log in first"),
        (["exchange", "a b", "--scope", "x", "--client", "gatehouse-worker"], "", 2, "not a bearer token"),
        (["exchange", "x", "--scope", "x", "--client", "y", "--login", "z"], "", 2, "use only one of them"),
        (["introspect", "x", "--login", "nobody"], "", 1, "no login; log in first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_error_is_one_line(home: Home, arguments: list[str], given: str, code: int, text: str) -> None:
    done = home.cli("token", *arguments, given=given)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert done.err.count("\n") == 1
