"""Commands as a person types them: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gatehouse.cli import make_app
from gatehouse.cli._fail import FAULT, UNREACHABLE, explain
from gatehouse.settings import ConfigurationError
from tests.support.cli import Cli
from tests.support.issuer import REALM_FILE

NOWHERE = json.dumps({"issuer": "http://127.0.0.1:1/realms/x", "targets": {"users": "127.0.0.1:1"}})
ISSUERS = json.dumps([{"issuer": "http://127.0.0.1:1/realms/x", "audience": "a", "mode": "jwt"}])


def paths(group: object, way: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of the application, as it is typed."""
    commands: dict[str, object] = getattr(group, "commands", {})
    return [way] if not commands else [p for name, c in commands.items() for p in paths(c, (*way, name))]


COMMANDS = paths(typer.main.get_command(make_app()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_an_example(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, "--help")
    assert (done.code, done.err) == (0, "")
    _, _, examples = done.out.partition("Examples:")
    assert f"gatehouse {' '.join(command)}" in examples


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    text = cli("--help").out
    for command in COMMANDS:
        assert command[0] in text
    words = " ".join(text.split())
    for code in ("0 it worked", "1 it was refused", "2 the command", "3 something", "4 a fault", "130"):
        assert code in words


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").out == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"),
    [
        (["cal"], {}, 2, "No such command"),
        (["call"], {}, 2, "Missing argument"),
        (["serve", "users", "--wrkers", "2"], {}, 2, "No such option"),
        (["serve", "users", "--workers", "0"], {}, 2, "Invalid value for '--workers'"),
        (["call", "users", "Foo"], {}, 2, "Foo: users has no such RPC; say one of GetUser"),
        (["call", "nobody", "Foo"], {}, 2, "there is no such service; say one of users, admin, public"),
        (["call", "users", "GetUser", "--data", "{"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "1"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "null"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "[1]"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", '{"user": 1}'], {}, 2, 'no field named "user"'),
        (["call", "users", "GetUser", "--data", "[" * 100_000], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "[{}, {}]"], {}, 2, "takes one request"),
        (["call", "users", "GetUser", "--as", "alice", "--client", "x"], {}, 2, "give one of them"),
        (["call", "users", "GetUser", "--token", "-", "--data", "-"], {}, 2, "only one of them"),
        (["call", "users", "CountUsers", "--client", "x"], {}, 3, "the issuer gave no usable answer"),
        (
            ["call", "users", "CountUsers"],
            {"GATEHOUSE_PROFILE": "missing.json"},
            2,
            "missing.json: cannot be",
        ),
        (["token", "obtain"], {}, 2, "give one of them"),
        (["token", "obtain", "--client", "x"], {}, 3, "the issuer gave no usable answer"),
        (["token", "introspect", "x"], {}, 3, "check that it runs"),
        (["token", "revoke", "x"], {}, 3, "check that it runs"),
        (["token", "decode", "garbage"], {}, 2, "nothing to decode"),
        (["trace", "xyz"], {}, 2, "xyz: not a trace id"),
        (["trace", "ab"], {}, 2, "no trace server is configured; use --url"),
        (["token", "decode", "a.b.c"], {}, 2, "nothing to decode"),
        (["policy", "--format", "xml"], {}, 2, "neither table nor json"),
        (["serve", "users"], {}, 2, "GATEHOUSE_ISSUERS: no issuer is configured"),
        (["serve", "mice"], {}, 2, "mice: unknown service; use one of users, admin, public"),
        (["serve", "public"], {"GATEHOUSE_ISSUERS": ISSUERS}, 2, "no TLS certificate; set GATEHOUSE_TLS__"),
        (
            ["serve", "public"],
            {
                "GATEHOUSE_ISSUERS": ISSUERS,
                "GATEHOUSE_TLS__CERTIFICATE_FILE": "missing.crt",
                "GATEHOUSE_TLS__PRIVATE_KEY_FILE": "missing.key",
            },
            2,
            "missing.crt: cannot be read",
        ),
        (["serve", "admin"], {"GATEHOUSE_ISSUERS": ISSUERS}, 2, "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID"),
        (["serve", "users"], {"GATEHOUSE_ISSUERS": "[1]"}, 2, "GATEHOUSE_ISSUERS__0"),
        (["serve", "users"], {"GATEHOUSE_ISSUERS": "["}, 2, "GATEHOUSE_ISSUERS: must be JSON"),
        (["config"], {"GATEHOUSE_USERS__PORT": "high"}, 2, "GATEHOUSE_USERS__PORT"),
        (["config"], {"GATEHOUSE_USERS__PRT": "1"}, 2, "GATEHOUSE_USERS__PRT"),
        (["config"], {"GATEHOUSE_SEVER__HOST": "1"}, 2, "unknown setting"),
        (["config"], {"GATEHOUSE_USERS__DATABASE_URL": "canary"}, 2, "must be a url such as postgresql://"),
        (["config"], {"GATEHOUSE_SECRETS_DIR": "/missing"}, 2, "/missing"),
        (["issuer", "--realm", "missing.json"], {}, 2, "missing.json"),
        (["issuer", "--realm", str(REALM_FILE.parent)], {}, 2, "keycloak"),
        (["issuer", "--realm", __file__], {}, 2, "test_commands.py"),
        (["issuer", "--realm", str(REALM_FILE), "--host", "0.0.0.0"], {}, 3, "loopback only"),
        (["issuer", "--realm", str(REALM_FILE), "--admin-password-file", "missing"], {}, 2, "missing"),
        (
            ["migrate"],
            {"GATEHOUSE_DATABASE__MIGRATE_URL": "postgresql://x@127.0.0.1:1/x"},
            3,
            "is unreachable",
        ),
        (["migrate", "--check"], {"GATEHOUSE_DATABASE__MIGRATE_URL": "mysql://x/x"}, 2, "must be a url"),
        (["healthcheck", "users"], {"GATEHOUSE_PROFILE": "missing.json"}, 2, "missing.json"),
        (["healthcheck", "mice"], {}, 2, "unknown service"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    cli: Cli, tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, text: str
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(json.loads(NOWHERE) | {"clients": {"x": "y", "gatehouse-api": "y"}}))
    done = cli(*arguments, **{"GATEHOUSE_PROFILE": str(profile)} | environment)
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if line]
    assert text in lines[-1]
    assert lines[-1].startswith("gatehouse: ")
    assert [line for line in lines if line.startswith("gatehouse: ")] == lines
    assert len(lines) == 1 or "DEVELOPMENT ISSUER" in lines[0]
    assert "Traceback" not in done.err
    assert len(lines[-1]) < 600


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"targets": {"users": 1}}', b'{"isuer": "x"}', b"[" * 100_000]
)
def test_a_profile_that_cannot_be_used_is_one_line(cli: Cli, tmp_path: Path, content: bytes) -> None:
    profile = tmp_path / "broken.json"
    profile.write_bytes(content)
    done = cli("call", "users", "CountUsers", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 2
    assert done.err.startswith(f"gatehouse: {profile}: ")
    assert done.err.count("\n") == 1


def test_a_server_that_is_away_is_one_line_that_says_where(cli: Cli, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(json.loads(NOWHERE) | {"plaintext": True}))
    done = cli("call", "users", "CountUsers", "--timeout", "5", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 3
    assert done.err.startswith("gatehouse: UNAVAILABLE: ")
    assert "does it run at 127.0.0.1:1" in done.err
    assert done.err.count("\n") == 1
    done = cli("healthcheck", "users", "--timeout", "1")
    assert (done.code, done.out) == (3, "users  UNREACHABLE\n")


def test_a_taken_port_is_one_line(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = cli("issuer", "--realm", str(REALM_FILE), "--port", port)
        assert (done.code, "cannot listen" in done.err) == (3, True)
        server = {
            "GATEHOUSE_ISSUERS": ISSUERS,
            "GATEHOUSE_TLS__PLAINTEXT": "true",
            "GATEHOUSE_PUBLIC__PORT": port,
            "GATEHOUSE_LOG__LEVEL": "error",
        }
        for more in ((), ("--workers", "2")):
            done = cli("serve", "public", *more, **server)
            assert done.code == 3
            assert done.err == (
                f"gatehouse: 127.0.0.1:{port}: cannot listen; another process may use the port\n"
            )
        done = cli("serve", "public", GATEHOUSE_TELEMETRY__METRICS_PORT=port)
        assert (done.code, "GATEHOUSE_TELEMETRY__METRICS_PORT" in done.err) == (2, True)
        assert done.err.count("\n") == 1


def test_a_ready_file_that_cannot_be_written_is_one_line(cli: Cli) -> None:
    done = cli(
        "serve",
        "public",
        "--ready-file",
        "/missing/ready.json",
        GATEHOUSE_ISSUERS=ISSUERS,
        GATEHOUSE_TLS__PLAINTEXT="true",
        GATEHOUSE_PUBLIC__PORT="0",
        GATEHOUSE_LOG__LEVEL="error",
    )
    assert done.code == 3
    assert done.err.startswith("gatehouse: /missing/.ready.json.part: no such file")


def test_an_unexpected_error_is_one_line_that_holds_nothing_of_its_text() -> None:
    try:
        raise KeyError("canary")
    except KeyError as error:
        text, code = explain(error)
    assert code == FAULT
    assert text.startswith("a fault of Gatehouse itself: KeyError at test_commands.py:")
    assert "canary" not in text
    assert explain(PermissionError(13, "Permission denied", "/x")) == ("/x: permission denied", UNREACHABLE)
    assert explain(OSError("just a text")) == ("just a text", UNREACHABLE)
    assert explain(ConfigurationError("x"))[1] == 2


def test_a_token_is_decoded_without_any_server(cli: Cli) -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"
    for done in (cli("token", "decode", token), cli("token", "decode", "-", given=f"{token}\n")):
        assert json.loads(done.out) == {"header": {"alg": "ES256"}, "claims": {"sub": "alice"}}


def test_config_masks_secrets_and_passwords_in_addresses(cli: Cli) -> None:
    canary = "canary-8d1f"
    issuers = [{"issuer": "https://i.test", "audience": "a", "client_id": "c", "client_secret": canary}]
    cli.set(
        GATEHOUSE_ISSUERS=json.dumps(issuers),
        GATEHOUSE_USERS__DATABASE_URL=f"postgresql://u:{canary}@h:5/d?password={canary}&x=y",
        GATEHOUSE_ADMIN__DATABASE_PASSWORD=canary,
        GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET=canary,
    )
    done, table = cli("config"), cli("config", "--sources")
    assert (done.code, table.code) == (0, 0)
    assert canary not in done.out + done.err + table.out + table.err
    found = json.loads(done.out)
    assert found["issuers"][0]["issuer"] == "https://i.test"
    assert found["users"]["database_url"] == "postgresql://u:***@h:5/d?password=***&x=y"
    assert found["admin"]["database_url"] == "postgresql://gatehouse_admin@127.0.0.1:5432/gatehouse"


def test_config_says_where_each_setting_comes_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gatehouse_users__port").write_text("50061")
    (tmp_path / "gatehouse_admin__port").write_text("50062")
    table = cli("config", "--sources", GATEHOUSE_SECRETS_DIR=str(tmp_path), GATEHOUSE_ADMIN__PORT="50072")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.lines if "│" in line]
    sources = {name: (value, origin) for name, value, origin in rows}
    assert sources["GATEHOUSE_USERS__PORT"][0] == "50061"
    assert sources["GATEHOUSE_USERS__PORT"][1].startswith(str(tmp_path)[:20])
    assert sources["GATEHOUSE_ADMIN__PORT"] == ("50072", "environment")
    assert sources["GATEHOUSE_PUBLIC__PORT"] == ("50053", "default")


def test_policy_agrees_with_the_realm_in_both_directions(cli: Cli) -> None:
    rules = json.loads(cli("policy", "--format", "json").out)
    assert len(rules) == 15
    realm = json.loads(REALM_FILE.read_text())
    known_scopes = {s["name"] for s in realm["clientScopes"] if ":" in s["name"] or s["name"] == "admin"}
    used_scopes = {s for r in rules for s in r["rule"].get("scopes", [])}
    assert used_scopes == known_scopes
    known_roles = {r["name"] for r in realm["roles"]["realm"]}
    assert {r for row in rules for r in row["rule"].get("roles", [])} <= known_roles
    table = cli("policy").out
    for row in rules:
        assert row["rpc"] in table


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "gatehouse", *arguments],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_reader_that_goes_away_is_no_error_worth_a_line() -> None:
    process = start("policy")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process:
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_an_interrupt_ends_quietly_with_its_own_code(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        profile = tmp_path / "profile.json"
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        profile.write_text(json.dumps({"targets": {"public": target}, "plaintext": True}))
        with start(
            "call", "public", "GetPublicInfo", "--timeout", "60", GATEHOUSE_PROFILE=str(profile)
        ) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_fault_shows_its_traceback_when_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_TRACEBACK", "1")
    with pytest.raises(ConfigurationError):
        cli("healthcheck", "mice")
