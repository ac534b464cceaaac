"""Commands as a user runs them: what they print, and their exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from gatehouse.cli import ExitCode, program_name
from gatehouse.cli._errors import explain
from gatehouse.settings import ConfigurationError
from tests.support.cli import Cli, start
from tests.support.issuer import REALM_FILE

NOWHERE = json.dumps({"issuer": "http://127.0.0.1:1/realms/x", "targets": {"users": "127.0.0.1:1"}})
ISSUERS = json.dumps([{"issuer": "http://127.0.0.1:1/realms/x", "audience": "a", "mode": "jwt"}])


def test_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").out == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"),
    [
        (["cal"], {}, 2, "no such command"),
        (["call"], {}, 2, "missing argument"),
        (["serve", "users", "--wrkers", "2"], {}, 2, "no such option"),
        (["token", "introspect", "Bearer", "canary"], {}, 2, "unexpected argument; see `"),
        (["serve", "users", "--workers", "0"], {}, 2, "invalid value for '--workers'"),
        (["call", "users", "Foo"], {}, 2, "Foo: UserService has no such RPC; use one of GetUser"),
        (["call", "nobody", "Foo"], {}, 2, "nobody: unknown service; use one of users"),
        (["call", "users", "GetUser", "--data", "{"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "1"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "null"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "[1]"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", '{"user": 1}'], {}, 2, 'no field named "user"'),
        (["call", "users", "GetUser", "--data", "[" * 100_000], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "[{}, {}]"], {}, 2, "takes one request"),
        (["call", "users", "GetUser", "--as", "alice", "--client", "x"], {}, 2, "use only one of them"),
        (["call", "users", "GetUser", "--token", "-", "--data", "-"], {}, 2, "only one of them"),
        (["call", "users", "CountUsers", "--client", "x"], {}, 3, "the issuer gave no usable answer"),
        (
            ["call", "users", "CountUsers"],
            {"GATEHOUSE_PROFILE": "missing.json"},
            2,
            "missing.json: cannot read the profile",
        ),
        (["token", "obtain"], {}, 1, "no login; log in first with `"),
        (["token", "obtain", "--client", "x", "--login", "y"], {}, 2, "use only one of them"),
        (["token", "obtain", "--client", "x"], {}, 3, "the issuer gave no usable answer"),
        (["token", "introspect", "x"], {}, 3, "check that it is running"),
        (["token", "revoke", "x"], {}, 3, "check that it is running"),
        (["token", "decode", "garbage"], {}, 2, "cannot be decoded"),
        (["trace", "xyz"], {}, 2, "xyz: not a trace id"),
        (["trace", "ab"], {}, 2, "no trace server is configured; use --url"),
        (["token", "decode", "a.b.c"], {}, 2, "cannot be decoded"),
        (["config", "--sources", "--describe"], {}, 2, "use only one of them"),
        (["call", "users", "CountUsers", "--token", "\udcff"], {}, 2, "the token is invalid"),
        (["call", "users", "Get\udcff"], {}, 2, "UserService has no such RPC"),
        (["policy", "--format", "xml"], {}, 2, "'xml' is not one of 'table', 'json'"),
        (["serve", "users"], {}, 2, "GATEHOUSE_ISSUERS: no issuer is configured"),
        (["serve", "mice"], {}, 2, "mice: unknown service; use one of users"),
        (["serve", "users"], {"GATEHOUSE_ISSUERS": ISSUERS}, 2, "no TLS certificate; set GATEHOUSE_TLS__"),
        (
            ["serve", "users"],
            {
                "GATEHOUSE_ISSUERS": ISSUERS,
                "GATEHOUSE_TLS__CERTIFICATE_FILE": "missing.crt",
                "GATEHOUSE_TLS__PRIVATE_KEY_FILE": "missing.key",
            },
            2,
            "missing.crt: cannot be read",
        ),
        (
            ["serve", "users"],
            {"GATEHOUSE_TLS__PLAINTEXT": "true", "GATEHOUSE_TLS__CERTIFICATE_FILE": "missing.crt"},
            2,
            "GATEHOUSE_TLS: plaintext is true, but certificate_file is set; remove one of them",
        ),
        (
            ["serve", "users"],
            {
                "GATEHOUSE_ISSUERS": ISSUERS,
                "GATEHOUSE_TLS__PLAINTEXT": "true",
                "GATEHOUSE_TELEMETRY__METRICS_HOST": "192.0.2.1",
                "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
            },
            2,
            "GATEHOUSE_TELEMETRY__METRICS_HOST: cannot listen on 192.0.2.1:0",
        ),
        # <part admin>
        (
            ["serve", "admin"],
            {"GATEHOUSE_ISSUERS": ISSUERS, "GATEHOUSE_TLS__PLAINTEXT": "true"},
            2,
            "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID",
        ),
        # </part admin>
        (["serve", "users"], {"GATEHOUSE_ISSUERS": "[1]"}, 2, "GATEHOUSE_ISSUERS[0]: must be a JSON object"),
        (["serve", "users"], {"GATEHOUSE_ISSUERS": "["}, 2, "GATEHOUSE_ISSUERS: must be JSON, such as [{"),
        (["serve", "users"], {"GATEHOUSE_ISSUERS": "{}"}, 2, "GATEHOUSE_ISSUERS: must be a JSON list"),
        (
            ["serve", "users"],
            {"GATEHOUSE_ISSUERS": '[{"issuer": "https://id.test"}]'},
            2,
            "GATEHOUSE_ISSUERS[0].audience: required",
        ),
        (["config"], {"GATEHOUSE_ISSUERS__0__AUDIENCE": "x"}, 2, "did you mean GATEHOUSE_ISSUERS?"),
        (["tour"], {}, 3, "the issuer is unavailable"),
        (["config"], {"GATEHOUSE_USERS__PORT": "high"}, 2, "GATEHOUSE_USERS__PORT"),
        (["config"], {"GATEHOUSE_USERS__PRT": "1"}, 2, "GATEHOUSE_USERS__PRT"),
        (["config"], {"GATEHOUSE_SEVER__HOST": "1"}, 2, "unknown setting"),
        (["config"], {"GATEHOUSE_USERS__DATABASE_URL": "canary"}, 2, "must be a URL such as postgresql://"),
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
            "Connection refused",
        ),
        (["migrate", "--check"], {"GATEHOUSE_DATABASE__MIGRATE_URL": "mysql://x/x"}, 2, "must be a URL"),
        (["healthcheck", "users"], {"GATEHOUSE_PROFILE": "missing.json"}, 2, "missing.json"),
        (["healthcheck", "mice"], {}, 2, "unknown service"),
        (["call", "users", "CountUsers", "--metadata", "x"], {}, 2, "metadata: not an entry"),
    ],
)
def test_error_is_one_line(
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
    assert "canary" not in done.err
    assert len(lines[-1]) < 600


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"targets": {"users": 1}}', b'{"isuer": "x"}', b"[" * 100_000]
)
def test_invalid_profile_is_one_line(cli: Cli, tmp_path: Path, content: bytes) -> None:
    profile = tmp_path / "broken.json"
    profile.write_bytes(content)
    done = cli("call", "users", "CountUsers", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 2
    assert done.err.startswith(f"gatehouse: {profile}: ")
    assert done.err.count("\n") == 1
    assert ("isuer: unknown key; did you mean issuer?" in done.err) == (b"isuer" in content)


def test_call_without_a_profile_goes_to_the_server_of_the_settings(cli: Cli) -> None:
    settings = {"GATEHOUSE_USERS__PORT": "1", "GATEHOUSE_TLS__PLAINTEXT": "true"}
    done = cli("call", "users", "CountUsers", "--token", "x", **settings)
    assert done.code == ExitCode.UNREACHABLE
    assert "cannot connect to 127.0.0.1:1; " in done.err
    assert "`GATEHOUSE_TLS__CA_FILE` trusts its certificate" in done.err


def test_unreachable_server_is_one_line_with_its_address(cli: Cli, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(json.loads(NOWHERE) | {"plaintext": True}))
    done = cli("call", "users", "CountUsers", "--timeout", "5", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 3
    assert done.err.startswith(
        "gatehouse: UNAVAILABLE: cannot connect to 127.0.0.1:1; check that it runs there"
    )
    assert done.err.count("\n") == 1
    done = cli("healthcheck", "users", "--timeout", "1")
    assert (done.code, done.out) == (3, "users  UNREACHABLE\n")
    assert done.err.endswith(f", or run `{program_name()} doctor users`\n")


def test_detail_of_a_failed_connection_is_shown_on_request(cli: Cli, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    command = ("call", "users", "CountUsers", "--timeout", "20")
    for target, text in {
        "127.0.0.1:1": "cannot connect to 127.0.0.1:1; check that it runs there",
        "nowhere.invalid:1": "the host name of nowhere.invalid:1 cannot be resolved",
    }.items():
        profile.write_text(json.dumps({"targets": {"users": target}, "ca_file": None}))
        lines = cli(*command, "--verbose", GATEHOUSE_PROFILE=str(profile)).err.splitlines()
        assert text in lines[0]
        assert lines[1].startswith("gatehouse: details of gRPC: ")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        profile.write_text(json.dumps({"targets": {"users": target}}))
        done = cli("call", "users", "CountUsers", "--timeout", "0.5", GATEHOUSE_PROFILE=str(profile))
    assert f"{target} did not respond in time" in done.err


def test_port_in_use_is_one_line(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = cli("issuer", "--realm", str(REALM_FILE), "--port", port)
        assert (done.code, "cannot listen" in done.err) == (3, True)
        server = {
            "GATEHOUSE_ISSUERS": ISSUERS,
            "GATEHOUSE_TLS__PLAINTEXT": "true",
            "GATEHOUSE_USERS__PORT": port,
            "GATEHOUSE_LOG__LEVEL": "error",
        }
        for more in ((), ("--workers", "2")):
            done = cli("serve", "users", *more, **server)
            assert done.code == 3
            assert done.err == (
                f"gatehouse: 127.0.0.1:{port}: cannot listen; correct host or port, or stop what uses the "
                f"port; run `{program_name()} doctor users` to check the rest\n"
            )
        done = cli("serve", "users", GATEHOUSE_TELEMETRY__METRICS_PORT=port)
        assert (done.code, "GATEHOUSE_TELEMETRY__METRICS_PORT" in done.err) == (2, True)
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ready_file_that_cannot_be_written_is_one_line(cli: Cli, workers: str) -> None:
    done = cli(
        "serve",
        "users",
        "--workers",
        workers,
        "--ready-file",
        "/missing/ready.json",
        GATEHOUSE_ISSUERS=ISSUERS,
        GATEHOUSE_TLS__PLAINTEXT="true",
        GATEHOUSE_USERS__PORT="0",
        GATEHOUSE_LOG__LEVEL="error",
    )
    assert done.code == 3
    assert done.err.startswith("gatehouse: /missing/ready.json: no such file")


def test_unexpected_error_is_one_line_without_its_message() -> None:
    try:
        raise KeyError("canary")
    except KeyError as error:
        message, code = explain(error)
    assert code == ExitCode.INTERNAL
    assert message.startswith("internal error: KeyError at test_commands.py:")
    assert "canary" not in message


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (PermissionError(13, "Permission denied", "/x"), "/x: permission denied", ExitCode.UNREACHABLE),
        (OSError("any text"), "any text", ExitCode.UNREACHABLE),
        (ConfigurationError("x: invalid"), "x: invalid", ExitCode.USAGE),
    ],
)
def test_expected_error_has_its_message_and_exit_code(error: Exception, message: str, code: int) -> None:
    assert explain(error) == (message, code)


def test_token_is_decoded_without_a_server(cli: Cli) -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"
    for done in (cli("token", "decode", token), cli("token", "decode", "-", given=f"{token}\n")):
        assert json.loads(done.out) == {"header": {"alg": "ES256"}, "claims": {"sub": "alice"}}


def test_config_masks_secrets_and_passwords_in_urls(cli: Cli) -> None:
    canary = "canary-8d1f"
    issuers = [{"issuer": "https://i.test", "audience": "a", "client_id": "c", "client_secret": canary}]
    cli.set(
        GATEHOUSE_ISSUERS=json.dumps(issuers),
        GATEHOUSE_USERS__DATABASE_URL=f"postgresql://u:{canary}@h:5/d?password={canary}&options=y",
        GATEHOUSE_USERS__DATABASE_PASSWORD=canary,
        GATEHOUSE_DATABASE__MIGRATE_PASSWORD=canary,
    )
    done, table = cli("config"), cli("config", "--sources")
    assert (done.code, table.code) == (0, 0)
    assert canary not in done.out + done.err + table.out + table.err
    found = json.loads(done.out)
    assert found["issuers"][0]["issuer"] == "https://i.test"
    assert found["users"]["database_url"] == "postgresql://u:***@h:5/d?password=***&options=y"
    assert found["database"]["migrate_password"] == "**********"


def test_config_lists_the_origin_of_each_setting(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gatehouse_users__port").write_text("50061")
    (tmp_path / "gatehouse_log__level").write_text("info")
    done = cli("config", "--sources", GATEHOUSE_SECRETS_DIR=str(tmp_path), GATEHOUSE_LOG__LEVEL="debug")
    rows = {name: rest for name, *rest in (line.split() for line in done.lines)}

    assert rows["GATEHOUSE_USERS__PORT"] == [str(tmp_path), "50061"]
    assert rows["GATEHOUSE_LOG__LEVEL"] == ["environment", '"debug"']
    assert rows["GATEHOUSE_TELEMETRY__METRICS_HOST"] == ["default", '"127.0.0.1"']


def test_policy_and_realm_file_have_the_same_scopes_and_roles(cli: Cli) -> None:
    rules = json.loads(cli("policy", "--format", "json").out)
    assert len(rules) == sum(len(spec.descriptor.methods) for spec in SERVICES.values())
    realm = json.loads(REALM_FILE.read_text())
    known_scopes = {s["name"] for s in realm["clientScopes"] if ":" in s["name"] or s["name"] == "admin"}
    used_scopes = {s for r in rules for s in r["rule"].get("scopes", [])}
    assert used_scopes == known_scopes, "add a scope with `make new-scope`, or let a rule require it"
    used_roles = {role for row in rules for role in row["rule"].get("roles", [])}
    assert used_roles <= {role["name"] for role in realm["roles"]["realm"]}
    in_tokens = {role for found in realm["scopeMappings"] if "client" in found for role in found["roles"]}
    assert used_roles <= in_tokens, "no token can contain the role; add it to `scopeMappings` of a client"
    table = cli("policy").out
    for row in rules:
        assert row["rpc"] in table


def test_closed_pipe_prints_no_error() -> None:
    with start("policy") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_interrupt_prints_nothing_and_has_its_own_exit_code(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        profile = tmp_path / "profile.json"
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        profile.write_text(json.dumps({"targets": {"users": target}, "plaintext": True}))
        with start(
            "call", "users", "CountUsers", "--timeout", "60", GATEHOUSE_PROFILE=str(profile)
        ) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_traceback_is_printed_on_request(cli: Cli) -> None:
    with pytest.raises(ConfigurationError):
        cli("healthcheck", "mice", GATEHOUSE_TRACEBACK="1")


def test_interrupt_while_modules_are_imported_ends_without_traceback() -> None:
    script = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "gatehouse.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from gatehouse.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
