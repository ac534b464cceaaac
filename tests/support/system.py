"""The whole system as processes: PostgreSQL with passwords, issuer, three services over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.app.services import SERVICES
from gatehouse.client import connect
from gatehouse.settings import TlsSettings
from gatehouse_testbed.certificates import write_certificates
from gatehouse_testbed.ports import free_ports
from gatehouse_testbed.postgres_server import PostgresServer
from gatehouse_testbed.tracing.receiver import TraceStore, receive_spans
from tests.support.database import LOGIN_ROLES, named, owner_url, run_postgres
from tests.support.eventually import eventually
from tests.support.issuer import ADMIN_PASSWORD, REALM_FILE

NAMES = tuple(SERVICES)
# Every secret of this system is a word of its own, so that a leak shows.
CLIENT_SECRETS = {
    name: f"canary-{name}-secret"
    for name in (
        "gatehouse-api",
        "gatehouse-admin-service",
        "gatehouse-worker",
        "gatehouse-elsewhere",
        "gatehouse-brief",
    )
}
DATABASE_PASSWORDS = {name: f"canary-database-{name}" for name in NAMES}
DATABASE = "gatehouse"
BUDGET_SECONDS = 2.0
RECHECK_SECONDS = 0.5
DRAIN_SECONDS = 30.0
PATIENCE_SECONDS = 120.0


def issuer_url(port: int) -> str:
    """Return the issuer URL for a port."""
    return f"http://127.0.0.1:{port}/realms/gatehouse"


@dataclass
class Program:
    """A `gatehouse` process and what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def written(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def lines(self, event: str = "rpc") -> list[dict[str, Any]]:
        """Its log lines of one event. Every line that a server writes is JSON."""
        found = [json.loads(line) for line in self.written.splitlines()]
        return [line for line in found if line.get("event") == event]

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    async def code(self) -> int:
        """Wait for its end and return its exit code."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (code := self.process.poll()) is None:
                await asyncio.sleep(0.02)
        return code


@dataclass
class System:
    """The running system, with helpers."""

    folder: Path
    postgres: PostgresServer
    owner_url: str
    base: dict[str, str]
    settings: dict[str, str]
    ports: dict[str, int]
    ca_file: Path
    spans: TraceStore
    exports: list[bytes]
    issuer_ports: dict[str, int]
    profile: Path
    programs: dict[str, Program] = field(default_factory=dict)
    spawned: list[Program] = field(default_factory=list)

    # Processes.

    def spawn(self, *arguments: str, **settings: str) -> Program:
        """Start `gatehouse ARGUMENTS` with the settings of this system."""
        log = self.folder / f"{len(self.spawned)}-{arguments[0]}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "gatehouse", *arguments],
                env=self.settings | settings,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=REALM_FILE.parents[1],
            )
        program = Program(process, log)
        self.spawned.append(program)
        return program

    def start_issuer(self, name: str = "issuer") -> None:
        """Start an issuer, always on the same port, with new keys."""
        password = self.folder / "admin-password"
        password.write_text(ADMIN_PASSWORD)
        port = self.issuer_ports[name]
        self.programs[name] = self.spawn(
            "issuer", "--port", str(port), "--admin-password-file", str(password)
        )

    def start(self, *names: str, **settings: str) -> None:
        """Start services, one process each, on the ports of this system."""
        for name in names:
            self.programs[name] = self.spawn("serve", name, **settings)

    def wait_until_serving(self) -> None:
        """Wait until the issuer responds and every service is SERVING."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        trusted = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        for name, port in self.ports.items():
            with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                while True:
                    assert self.programs[name].process.poll() is None, self.programs[name].written
                    assert time.monotonic() < deadline, self.programs[name].written
                    with contextlib.suppress(grpc.RpcError):
                        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            break
                    time.sleep(0.02)

    async def wait_for_replica(self, name: str, program: Program, port: int) -> None:
        """Wait until a further replica of a service is SERVING."""
        async with self.channel(name, port) as channel:

            async def is_serving() -> bool:
                assert program.process.poll() is None, program.written
                stub: Any = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await eventually(is_serving)

    # The database.

    def stop_database(self) -> None:
        """Stop PostgreSQL without closing its connections in an orderly way."""
        self.postgres.stop(signal.SIGQUIT)

    def start_database(self) -> None:
        """Start it again."""
        self.postgres.start()

    # The issuer.

    def post(self, path: str, *, issuer: str = "issuer", **form: str) -> httpx.Response:
        """Post to an endpoint of an issuer, such as `token`."""
        url = f"{issuer_url(self.issuer_ports[issuer])}/protocol/openid-connect/{path}"
        return httpx.post(url, data=form, trust_env=False, timeout=30)

    def user_tokens(self, user: str, scope: str, issuer: str = "issuer") -> dict[str, str]:
        """Return the token response of a user."""
        answer = self.post(
            "token",
            issuer=issuer,
            grant_type="password",
            client_id="gatehouse-console",
            username=user,
            password=user,
            scope=scope,
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    def user_token(self, user: str, scope: str, issuer: str = "issuer") -> str:
        """Return an access token of a user."""
        return self.user_tokens(user, scope, issuer)["access_token"]

    def client_token(self, client: str, scope: str) -> str:
        """Return an access token of a client."""
        answer = self.post(
            "token",
            grant_type="client_credentials",
            client_id=client,
            client_secret=CLIENT_SECRETS[client],
            scope=scope,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def introspect(self, token: str) -> bool:
        """Return whether a token is active."""
        answer = self.post(
            "token/introspect",
            token=token,
            client_id="gatehouse-api",
            client_secret=CLIENT_SECRETS["gatehouse-api"],
        )
        return answer.json()["active"] is True

    def revoke(self, token: str, client: str = "gatehouse-console") -> None:
        """Revoke a token of a client."""
        secret = {"client_secret": CLIENT_SECRETS[client]} if client in CLIENT_SECRETS else {}
        answer = self.post("revoke", token=token, client_id=client, **secret)
        assert answer.status_code == 200, answer.text

    def rotate_keys(self) -> None:
        """Make the issuer sign with a new key."""
        base = f"http://127.0.0.1:{self.issuer_ports['issuer']}"
        with httpx.Client(trust_env=False, timeout=30) as http:
            answer = http.post(
                f"{base}/realms/master/protocol/openid-connect/token",
                data={
                    "grant_type": "password",
                    "client_id": "admin-cli",
                    "username": "admin",
                    "password": ADMIN_PASSWORD,
                },
            )
            made = http.post(
                f"{base}/admin/realms/gatehouse/components",
                headers={"Authorization": f"Bearer {answer.json()['access_token']}"},
                json={
                    "name": "rotated",
                    "providerId": "ecdsa-generated",
                    "providerType": "org.keycloak.keys.KeyProvider",
                    "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"]},
                },
            )
        assert made.status_code == 201, made.text

    # The services.

    def channel(self, name: str, *ports: int, tokens: Any = None) -> grpc.aio.Channel:
        """Open a channel to a service, or to the replicas on `ports`."""
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports or (self.ports[name],))
        tls = TlsSettings(ca_file=self.ca_file)
        return connect(f"ipv4:{addresses}", tls=tls, server_name="localhost", tokens=tokens)

    def metrics(self, name: str) -> str:
        """Return the metrics of a service in the Prometheus format."""
        ready = json.loads(self.folder.joinpath(f"{name}.json").read_text())
        answer = httpx.get(f"http://127.0.0.1:{ready['metrics']}/metrics", trust_env=False)
        assert answer.status_code == 200
        return answer.text


def _prepare_database(server: PostgresServer) -> str:
    """Create the database, and return the URL of its owner."""
    with psycopg.connect(owner_url(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    return owner_url(server, DATABASE)


# The owner is trusted; a login role must show its password.
RULES = "".join(f"host all {role} 127.0.0.1/32 scram-sha-256\n" for role in LOGIN_ROLES.values())
RULES += "host all postgres 127.0.0.1/32 trust\n"


@contextlib.contextmanager
def run_system(**more: str) -> Iterator[System]:
    """Run everything until the context ends; `more` are further settings."""
    folder = Path(tempfile.mkdtemp(prefix="gh-sys-"))
    tls = write_certificates(folder)
    stack = contextlib.ExitStack()
    server = stack.enter_context(run_postgres(RULES))
    owner = _prepare_database(server)
    spans, exports = TraceStore(), list[bytes]()
    otlp_endpoint = stack.enter_context(receive_spans(spans, exports.append))
    issuer, other, *free = free_ports(len(NAMES) + 2)
    ports = dict(zip(NAMES, free, strict=True))
    issuer_ports = {"issuer": issuer, "other issuer": other}
    base = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    accepted = [
        {
            "issuer": issuer_url(port),
            "audience": "gatehouse-api",
            "client_id": "gatehouse-api",
            "client_secret": CLIENT_SECRETS["gatehouse-api"],
            "revocation_budget_seconds": BUDGET_SECONDS,
            "leeway_seconds": 0,
        }
        for port in issuer_ports.values()
    ]
    settings = base | {
        "GATEHOUSE_ISSUERS": json.dumps(accepted),
        "GATEHOUSE_TLS__CERTIFICATE_FILE": str(tls.certificate_file),
        "GATEHOUSE_TLS__PRIVATE_KEY_FILE": str(tls.private_key_file),
        "GATEHOUSE_TLS__CA_FILE": str(tls.ca_file),
        # <part admin>
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "gatehouse-admin-service",
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": CLIENT_SECRETS["gatehouse-admin-service"],
        "GATEHOUSE_ADMIN__USERS_TARGET": f"localhost:{ports['users']}",
        # </part admin>
        "GATEHOUSE_SERVER__RECHECK_SECONDS": str(RECHECK_SECONDS),
        "GATEHOUSE_SERVER__DRAIN_SECONDS": str(DRAIN_SECONDS),
        "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
        "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": otlp_endpoint,
        "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
        "GATEHOUSE_TELEMETRY__EXPORT_SECONDS": "0.2",
        "GATEHOUSE_DATABASE__MIGRATE_URL": owner,
    }
    settings |= more
    for name, role in LOGIN_ROLES.items():
        upper, word = name.upper(), DATABASE_PASSWORDS[name]
        settings |= {
            f"GATEHOUSE_{upper}__PORT": str(ports[name]),
            f"GATEHOUSE_{upper}__DATABASE_PASSWORD": word,
            f"GATEHOUSE_{upper}__DATABASE_URL": named(owner, DATABASE, role, word),
        }
    for client, secret in CLIENT_SECRETS.items():
        settings[f"{client.upper().replace('-', '_')}_SECRET"] = secret
    profile = folder / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "issuer": issuer_url(issuer_ports["issuer"]),
                "targets": {name: f"localhost:{port}" for name, port in ports.items()},
                "ca_file": str(tls.ca_file),
                "clients": CLIENT_SECRETS,
                "passwords": {name: name for name in ("alice", "bob", "carol")},
            }
        )
    )
    system = System(
        folder,
        server,
        owner,
        base,
        settings,
        ports,
        tls.ca_file,
        spans,
        exports,
        issuer_ports,
        profile,
    )
    try:
        migrating = system.spawn("migrate")
        for name in issuer_ports:
            system.start_issuer(name)
        assert migrating.process.wait(PATIENCE_SECONDS) == 0, migrating.written
        for name in NAMES:
            system.programs[name] = system.spawn("serve", name, "--ready-file", str(folder / f"{name}.json"))
        system.wait_until_serving()
        yield system
    finally:
        for program in system.spawned:
            if program.process.poll() is None:
                program.process.terminate()
        for program in system.spawned:
            program.end()
        stack.close()
        shutil.rmtree(folder, ignore_errors=True)
