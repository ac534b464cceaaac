"""Logins of the command line at the development issuer: log in, use, log out; where they are kept."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import keyring
import keyring.backends.fail
import pytest

from gatehouse.client.keyring_store import SERVICE
from gatehouse.users.v1 import users_pb2
from tests.support import browser
from tests.support.cli import Done, start
from tests.support.file_keyring import FileKeyring
from tests.support.home import Home
from tests.support.issuer import SECRETS
from tests.support.realm import token_roles

WARNING = "warning: the keyring of the system cannot be used"


@pytest.fixture
def system_keyring(home: Home, tmp_path: Path) -> Iterator[Path]:
    """A keyring that works, in this process and its children."""
    home.environment |= {
        "PYTHON_KEYRING_BACKEND": "tests.support.file_keyring.FileKeyring",
        "TEST_KEYRING": str(tmp_path / "keyring.json"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    home.cli.set(**home.environment)
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring())
    yield tmp_path / "keyring.json"
    keyring.set_keyring(before)


def test_user_logs_in_with_the_browser_and_logs_out(home: Home) -> None:
    done = home.login()
    assert (done.code, done.out) == (0, f"logged in to {home.issuer} as alice (login default)\n")
    assert f"  {home.issuer}/protocol/openid-connect/auth?" in done.err
    assert WARNING in done.err
    assert f"{home.logins / 'default' / 'tokens.json'}, which only you can read" in done.err
    files = list((home.logins / "default").iterdir())
    assert sorted(file.name for file in files) == ["login.json", "tokens.json", "tokens.json.lock"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}

    found = home.whoami()
    assert 0 < found.pop("expires_in") <= 300
    assert "read:users" in found.pop("scopes")
    assert found == {
        "login": "default",
        "issuer": home.issuer,
        "client": "gatehouse-console",
        "user": "alice",
        "subject": "00000000-0000-4000-8000-0000000a11ce",
        "roles": sorted(token_roles("alice")),
        "renewable": True,
        "stored_in": "file",
    }
    table = home.cli("whoami").out
    assert "alice" in table
    assert "then it is renewed" in table

    tokens = home.tokens()
    assert home.is_active(tokens["access_token"])
    done = home.cli("logout")
    assert (done.code, done.out, done.err) == (0, "logged out (default)\n", "")
    assert not home.is_active(tokens["access_token"])
    assert [path.name for path in home.logins.rglob("*") if path.is_file()] == ["tokens.json.lock"]
    for command in ("whoami", "logout"):
        done = home.cli(command)
        assert (done.code, done.out) == (1, "")
        assert "no login; log in first with" in done.err


def test_user_logs_in_on_another_device(home: Home) -> None:
    with start("login", "--device", "--scope", "openid read:users", **home.environment) as process:
        assert process.stderr is not None
        first, second, third = (process.stderr.readline() for _ in range(3))
        assert re.fullmatch(rf"Open {home.issuer}/device on any device, and enter the code \S+\n", first)
        browser.main("username=bob&password=bob", second.removeprefix("or open ").strip())
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, f"logged in to {home.issuer} as bob (login default)\n")
    assert third == "The code is valid for 10 minutes.\n"
    assert home.whoami()["user"] == "bob"


def test_user_who_declines_has_no_login(home: Home) -> None:
    done = home.login(form="decline")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("gatehouse: the user did not log in (access_denied)\n")
    assert not home.logins.exists()


def test_interrupt_ends_a_login_silently(home: Home) -> None:
    with start("login", "--no-browser", **home.environment) as process:
        assert process.stderr is not None
        assert "Log in on this page" in process.stderr.readline()
        assert home.issuer in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert not home.logins.exists()


def test_access_token_that_ends_soon_is_renewed_with_a_rotating_refresh_token(home: Home) -> None:
    home.keep_alice()
    before = home.tokens()
    home.write_tokens(expires_at=0)
    assert home.whoami()["expires_in"] > 200
    after = home.tokens()
    assert after["refresh_token"] != before["refresh_token"]
    assert home.tokens() == after
    assert home.cli("token", "obtain").out == f"{after['access_token']}\n"


def test_login_that_the_issuer_has_ended_says_so(home: Home) -> None:
    home.keep_alice()
    tokens = home.tokens()
    form = {"client_id": "gatehouse-console", "refresh_token": tokens["refresh_token"]}
    httpx.post(f"{home.issuer}/protocol/openid-connect/logout", data=form).raise_for_status()
    home.write_tokens(expires_at=0)
    done = home.cli("whoami")
    assert done.code == 1
    assert "the login has ended (invalid_grant); log in again with `" in done.err
    assert done.err.count("\n") == 1
    # The issuer has nothing to revoke.
    assert home.cli("logout").code == 0


def test_client_logs_in_and_processes_share_its_token(home: Home) -> None:
    done = home.worker()
    assert (done.code, done.out) == (0, f"logged in to {home.issuer} as gatehouse-worker (login worker)\n")
    found = home.whoami("worker")
    assert (found["user"], found["scopes"], found["renewable"]) == ("", ["read:users"], True)
    token = home.cli("token", "obtain", "--login", "worker").out
    assert home.cli("token", "obtain", GATEHOUSE_LOGIN="worker").out == token
    assert token.strip() == home.tokens("worker")["access_token"]
    assert home.cli("logout", "worker").code == 0
    assert not home.is_active(token)


def test_several_logins_are_side_by_side(home: Home) -> None:
    home.worker()
    home.keep_alice("alice")
    listed = json.loads(home.cli("whoami", "--all", "--format", "json").out)
    assert [(row["login"], row["user"]) for row in listed] == [("alice", "alice"), ("worker", "")]
    assert home.whoami("alice")["scopes"] == ["openid"]
    done = home.cli("whoami")
    assert done.code == 1
    assert "there are logins named alice, worker" in done.err


def test_login_again_needs_no_options(home: Home) -> None:
    home.worker()
    home.cli.set(GATEHOUSE_PROFILE="")
    (home.logins.parent / "secret").write_text(SECRETS["gatehouse-worker"])
    done = home.cli("login", "worker", "--client-secret-file", str(home.logins.parent / "secret"))
    assert (done.code, home.whoami("worker")["scopes"]) == (0, ["read:users"])
    assert WARNING not in done.err


def test_any_issuer_is_named_by_its_url(home: Home) -> None:
    home.cli.set(GATEHOUSE_PROFILE="")
    done = home.cli("login", "--issuer", home.issuer)
    assert (done.code, "name the client that is registered there with --client-id" in done.err) == (2, True)
    arguments = ("--issuer", home.issuer, "--client-id", "gatehouse-worker", "--client-credentials")
    secret = f"{SECRETS['gatehouse-worker']}\n"
    done = home.cli("login", "other", *arguments, "--client-secret-file", "-", given=secret)
    assert done.code == 0
    assert home.whoami("other")["client"] == "gatehouse-worker"
    # The secret is kept with the tokens, and in no other file.
    assert home.tokens("other")["client_secret"] == secret.strip()
    assert secret.strip() not in (home.logins / "other" / "login.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "given", "code", "text"),
    [
        (["--issuer", "http://127.0.0.1:1/realms/x", "--client-id", "x"], "", 3, "gave no usable answer"),
        (["--issuer", "http://id.test", "--client-id", "x"], "", 3, "gave no usable answer (url_not_https"),
        (["--client-credentials", "--client-id", "none"], "", 2, "name a file with --client-secret-file"),
        (
            ["--client-credentials", "--client-id", "gatehouse-worker", "--client-secret-file", "-"],
            "wrong",
            1,
            "the issuer refused (unauthorized_client)",
        ),
        (
            ["--client-credentials", "--client-id", "x", "--client-secret-file", "no"],
            "",
            2,
            "client secret: cannot read",
        ),
        (["--client-id", "x", "--private-key-file", "no"], "", 2, "private key: cannot read"),
        (["--client-id", "x", "--certificate-file", "no"], "", 2, "name the private key file"),
        (["--client-credentials"], "", 2, "name the client with --client-id"),
        (["--device", "--client-credentials"], "", 2, "use only one of them"),
        (["../x"], "", 2, "../x: not a name of a login"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_error_says_what_failed_in_one_line(
    home: Home, arguments: list[str], given: str, code: int, text: str
) -> None:
    done = home.cli("login", *arguments, given=given)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert done.err.count("\n") == 1
    assert not home.logins.exists()


def test_login_is_kept_if_it_cannot_be_revoked(home: Home) -> None:
    home.worker()
    path = home.logins / "worker" / "login.json"
    path.write_text(path.read_text().replace(home.issuer, "http://127.0.0.1:1/realms/x"))
    done = home.cli("logout", "worker")
    assert done.code == 3
    assert "the login was not deleted; `" in done.err
    assert "logout worker --local` deletes it" in done.err
    assert done.err.count("\n") == 1
    assert path.exists()
    assert home.cli("logout", "worker", "--local").out == "logged out (worker)\n"
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{}", '{"flow": "canary"}'])
def test_damaged_login_is_named_without_its_content(home: Home, content: str) -> None:
    path = home.logins / "default" / "login.json"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(content)
    done = home.cli("whoami")
    assert done.code == 3
    assert done.err == f"gatehouse: {path}: not a login of this version; delete it and log in again\n"
    assert home.worker().code == 0
    assert [line.split()[0] for line in home.cli("whoami", "--all").lines] == ["LOGIN", "worker"]
    home.cli.set(GATEHOUSE_LOGIN="default")
    done = home.cli("login", "--client-credentials", "--client-id", "gatehouse-worker")
    assert (done.code, home.whoami()["client"]) == (0, "gatehouse-worker")


# The keyring.


def test_login_is_stored_in_the_keyring_if_it_works(home: Home, system_keyring: Path) -> None:
    done = home.login()
    assert (done.code, WARNING in done.err) == (0, False)
    assert home.whoami()["stored_in"] == "keyring"
    assert "the keyring of the system" in home.cli("whoami").out
    assert not (home.logins / "default" / "tokens.json").exists()
    assert list(json.loads(system_keyring.read_text())) == [f"{SERVICE} {home.logins / 'default'}"]
    assert home.cli("logout").code == 0
    assert json.loads(system_keyring.read_text()) == {}


def test_login_moves_from_a_file_to_the_keyring(home: Home, system_keyring: Path) -> None:
    keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call] # it is of keyring
    assert WARNING in home.worker().err
    keyring.set_keyring(FileKeyring())
    assert WARNING not in home.worker().err
    assert not (home.logins / "worker" / "tokens.json").exists()
    assert home.whoami("worker")["stored_in"] == "keyring"


def test_locked_keyring_is_named(home: Home, system_keyring: Path) -> None:
    home.worker()
    system_keyring.unlink()
    system_keyring.mkdir()
    done = home.cli("whoami", "worker")
    assert done.code == 3
    assert done.err == "gatehouse: the keyring of the system cannot be used (KeyringError); unlock it\n"
    assert "it fails with KeyringError" in home.login("--scope", "openid").err


def test_missing_package_for_the_keyring_is_named(home: Home, system_keyring: Path, tmp_path: Path) -> None:
    home.worker()
    (tmp_path / "keyring.py").write_text("raise ImportError")
    environment = home.environment | {"PYTHONPATH": str(tmp_path)}
    with start("whoami", "worker", **environment) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.endswith("install support for it with pip install 'gatehouse[keyring]'\n")


def test_processes_share_a_rotating_login_in_the_keyring(home: Home, system_keyring: Path) -> None:
    """The issuer ends the session if a refresh token is used twice."""
    home.keep_alice(place="keyring")
    entries = json.loads(system_keyring.read_text())
    (name,) = entries
    entries[name] = json.dumps(json.loads(entries[name]) | {"expires_at": 0})
    system_keyring.write_text(json.dumps(entries))
    with ExitStack() as stack:
        processes = [stack.enter_context(start("token", "obtain", **home.environment)) for _ in range(3)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert home.is_active(outputs[0][0])


# The login in other commands.


@pytest.fixture
def users(home: Home) -> Iterator[Callable[..., tuple[Done, str | None]]]:
    """Return a function that calls an RPC of a UserService, and returns the token that it gets."""
    seen: list[dict[str, Any]] = []

    def count_users(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return users_pb2.CountUsersResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        count_users,
        users_pb2.CountUsersRequest.FromString,
        users_pb2.CountUsersResponse.SerializeToString,
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_registered_method_handlers("gatehouse.users.v1.UserService", {"CountUsers": handler})
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        home.profile.write_text(
            json.dumps(json.loads(home.profile.read_text()) | {"targets": {"users": target}})
        )

        def call(*arguments: str, **environment: str) -> tuple[Done, str | None]:
            seen.clear()
            done = home.cli("call", "users", "CountUsers", *arguments, **environment)
            return done, seen[0].get("authorization") if seen else None

        yield call
        server.stop(None).wait()


def test_call_uses_the_stored_login(home: Home, users: Callable[..., tuple[Done, str | None]]) -> None:
    assert users()[1] is None
    home.worker()
    worker = f"Bearer {home.tokens('worker')['access_token']}"
    assert users()[1] is None
    assert users("--login", "worker")[1] == worker
    assert users(GATEHOUSE_LOGIN="worker")[1] == worker
    home.keep_alice()
    home.cli.set(GATEHOUSE_LOGIN="")
    done, sent = users()
    assert (done.code, done.err, sent) == (0, "", f"Bearer {home.tokens()['access_token']}")
    assert users("--token", "other")[1] == "Bearer other"
    done, sent = users("--token", "other", "--login", "worker")
    assert (done.code, sent) == (2, None)
    done, sent = users("--login", "nobody")
    assert (done.code, sent) == (1, None)
    assert "no login; log in first with `" in done.err


def test_token_is_not_sent_to_services_of_another_issuer(
    home: Home, users: Callable[..., tuple[Done, str | None]]
) -> None:
    home.keep_alice()
    content = json.loads(home.profile.read_text())
    home.profile.write_text(json.dumps(content | {"issuer": "https://other.test"}))
    done, sent = users()
    assert sent is None
    assert f"warning: no token is sent, because the stored login is of {home.issuer}" in done.err
    assert users("--login", "default")[1] == f"Bearer {home.tokens()['access_token']}"
