"""`gatehouse healthcheck` beside a server, as a container runs it: with the settings of the server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from gatehouse import probe
from gatehouse.app.services import SERVICES
from tests.support.certificates import Authority
from tests.support.cli import Cli, start
from tests.support.environment import PROXIES

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Served:
    """A health service over TLS, and the settings of its server."""

    def __init__(self, authority: Authority, *names: str) -> None:
        certificate, key = authority.write(*authority.issue(names[0], others=names[1:]))
        self.health: Any = HealthServicer()
        self.health.set("liveness", SERVING)
        self.server = grpc.server(ThreadPoolExecutor(2))
        add_HealthServicer_to_server(self.health, self.server)
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nothing = str(free.getsockname()[1])
        self.settings = {f"GATEHOUSE_{name.upper()}__PORT": nothing for name in SERVICES} | {
            "GATEHOUSE_USERS__PORT": str(port),
            "GATEHOUSE_SERVER__HOST": "0.0.0.0",
            "GATEHOUSE_TLS__CA_FILE": str(authority.ca_file),
            "GATEHOUSE_TLS__CERTIFICATE_FILE": str(certificate),
        }


@pytest.fixture
def local(authority: Authority) -> Iterator[Served]:
    """A server whose certificate has its address."""
    served = Served(authority, "users.example.com", "127.0.0.1")
    yield served
    served.server.stop(0)


@pytest.fixture
def named(authority: Authority) -> Iterator[Served]:
    """A server whose certificate has only a host name."""
    served = Served(authority, "users.example.com")
    yield served
    served.server.stop(0)


def test_healthy_service_is_found_without_loading_the_command_line(local: Served) -> None:
    settings = local.settings | PROXIES | {"PYTHONPROFILEIMPORTTIME": "1"}
    with start("healthcheck", **settings) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "users  SERVING\n")
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if "import time:" in line}
    assert "grpc" in imported
    assert not {name.partition(".")[0] for name in imported} & {"pydantic", "typer", "google", "rich"}


@pytest.mark.parametrize("arguments", [(), ("users",), ("users", "--liveness")], ids=" ".join)
def test_probe_and_full_command_agree(local: Served, cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli("healthcheck", *arguments, **local.settings)
    assert (done.code, done.out) == (0, "users  SERVING\n")
    assert probe.find_serving(arguments, local.settings) == ["users"]


def test_certificate_without_the_address_is_checked_against_the_name_of_the_server(
    named: Served, cli: Cli
) -> None:
    done = cli("healthcheck", **named.settings)
    assert (done.code, done.out) == (0, "users  SERVING\n")
    settings = named.settings | {"GATEHOUSE_TLS__SERVER_NAME": "users.example.com"}
    assert probe.find_serving([], settings) == ["users"]
    settings["GATEHOUSE_TLS__SERVER_NAME"] = "admin.example.com"
    assert probe.find_serving([], settings) == []
    assert cli("healthcheck", **settings).code == 3


def test_certificate_for_any_host_of_a_domain_is_accepted(authority: Authority, cli: Cli) -> None:
    served = Served(authority, "*.example.com")
    assert cli("healthcheck", **served.settings).code == 0
    served.server.stop(0)


def test_probe_leaves_what_is_not_healthy_to_the_full_command(local: Served, cli: Cli) -> None:
    local.health.set("", NOT_SERVING)
    assert probe.find_serving([], local.settings) == []
    assert probe.find_serving(["users", "--liveness"], local.settings) == ["users"]
    assert cli("healthcheck", **local.settings).code == 1
    assert probe.find_serving(["admin"], local.settings) == []


def test_probe_leaves_unusual_settings_to_the_full_command(local: Served, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, value in {
        "GATEHOUSE_PROFILE": "profile.json",
        "GATEHOUSE_TLS": "{}",
        "GATEHOUSE_USERS": "{}",
        "gatehouse_users__port": "1",
        "GATEHOUSE_TLS__PLAINTEXT": "maybe",
        "GATEHOUSE_SERVER__HOST": "::1",
    }.items():
        assert probe.find_serving([], local.settings | {name: value}) == [], name
    for argument in ("mice", "--timeout", "--help"):
        assert probe.find_serving([argument], local.settings) == []
    settings = local.settings | {"GATEHOUSE_SECRETS_DIR": str(secrets)}
    (secrets / "gatehouse_users__database_password").write_text("x")
    assert probe.find_serving([], settings) == ["users"]
    (secrets / "gatehouse_users__port").write_text("1")
    assert probe.find_serving([], settings) == []


def test_profile_names_the_server_in_the_certificate(named: Served, cli: Cli, tmp_path: Path) -> None:
    target = f"127.0.0.1:{named.settings['GATEHOUSE_USERS__PORT']}"
    profile = {"targets": {"users": target}, "ca_file": named.settings["GATEHOUSE_TLS__CA_FILE"]}
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile))
    assert cli("healthcheck", "users", GATEHOUSE_PROFILE=str(file)).code == 3
    file.write_text(json.dumps(profile | {"server_name": "users.example.com"}))
    assert cli("healthcheck", "users", GATEHOUSE_PROFILE=str(file)).code == 0
