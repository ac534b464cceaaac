"""Commands as a person types them: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.issuer import REALM_FILE


def gatehouse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    return subprocess.run(
        [sys.executable, "-m", "gatehouse", *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"),
    [
        (["cal"], {}, 2, "No such command"),
        (["call", "users", "Foo"], {}, 2, "Foo: users has no such RPC"),
        (["call", "nobody", "Foo"], {}, 2, "there is no such service"),
        (["call", "users", "GetUser", "--data", "{"], {}, 2, "--data"),
        (["call", "users", "GetUser", "--data", "[{}, {}]"], {}, 2, "takes one request"),
        (["call", "users", "GetUser", "--as", "alice", "--client", "x"], {}, 2, "give one of them"),
        (["token", "obtain"], {}, 2, "give one of them"),
        (["token", "decode", "garbage"], {}, 2, "nothing to decode"),
        (["trace", "xyz"], {}, 2, "xyz: is no trace id"),
        (["trace", "ab"], {}, 2, "no server of traces is known: name one with --url"),
        (["policy", "--format", "xml"], {}, 2, "neither table nor json"),
        (["serve", "users"], {}, 2, "GATEHOUSE_ISSUERS: names no issuer"),
        (["serve", "mice"], {}, 2, "there is no such service"),
        (["config"], {"GATEHOUSE_SERVER__USERS_PORT": "high"}, 2, "GATEHOUSE_SERVER__USERS_PORT"),
        (["config"], {"GATEHOUSE_SEVER__USERS_PORT": "1"}, 2, "there is no such setting"),
        (["issuer", "--realm", "missing.json"], {}, 2, "missing.json"),
        (["issuer", "--realm", str(REALM_FILE), "--host", "0.0.0.0"], {}, 3, "loopback only"),
        (["healthcheck", "users"], {"GATEHOUSE_PROFILE": "missing.json"}, 2, "missing.json"),
        (["healthcheck", "mice"], {}, 2, "there is no such service"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], environment: dict[str, str], code: int, text: str
) -> None:
    done = gatehouse(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stderr.startswith("gatehouse: ")
    assert done.stderr.count("\n") == 1


def test_config_masks_secrets_and_passwords_in_addresses() -> None:
    canary = "canary-8d1f"
    issuers = json.dumps(
        [{"issuer": "https://i.test", "audience": "a", "client_id": "c", "client_secret": canary}]
    )
    done = gatehouse(
        "config",
        GATEHOUSE_ISSUERS=issuers,
        GATEHOUSE_DATABASE__USERS_URL=f"postgresql://u:{canary}@h/d",
        GATEHOUSE_CLIENT__CLIENT_SECRET=canary,
    )
    assert done.returncode == 0
    assert canary not in done.stdout + done.stderr
    assert json.loads(done.stdout)["issuers"][0]["issuer"] == "https://i.test"


def test_policy_agrees_with_the_realm_in_both_directions() -> None:
    rules = json.loads(gatehouse("policy", "--format", "json").stdout)
    assert len(rules) == 15
    realm = json.loads(Path(REALM_FILE).read_text())
    known_scopes = {s["name"] for s in realm["clientScopes"] if ":" in s["name"] or s["name"] == "admin"}
    used_scopes = {s for r in rules for s in r["rule"].get("scopes", [])}
    assert used_scopes == known_scopes
    known_roles = {r["name"] for r in realm["roles"]["realm"]}
    assert {r for row in rules for r in row["rule"].get("roles", [])} <= known_roles


def test_help_names_every_command_and_the_exit_codes() -> None:
    text = gatehouse("--help").stdout
    for name in ("serve", "migrate", "issuer", "token", "call", "policy", "healthcheck", "config"):
        assert name in text
    assert "Exit codes" in text
