"""The environment of the measured servers: PostgreSQL with users, an issuer, and a receiver of spans."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import psycopg
import sqlalchemy as sa
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from benchmarks.processes import BenchmarkError, Process, run_process
from gatehouse.app.services import SERVICES, migration_branches
from gatehouse.storage.migrations import migrate
from gatehouse_testbed.accounts import find_account, temporary_folder
from gatehouse_testbed.postgres_server import PostgresServer

REALM_FILE = Path(__file__).resolve().parent.parent / "keycloak" / "gatehouse-realm.json"
# Clients of the demo realm; their secrets are public.
_API = ("gatehouse-api", "api-demo-secret")
WORKER = ("gatehouse-worker", "worker-demo-secret")
_FIRST_CREATE_TIME = datetime(2020, 1, 1, tzinfo=UTC)
_INSERT = """
INSERT INTO users.users
  (user_id, email, display_name, state, create_time, update_time, version)
SELECT
  ('01890000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
  'user' || n || '@example.com',
  'User ' || n,
  1,
  %(first)s::timestamptz + n * interval '1 second',
  %(first)s::timestamptz + n * interval '1 second',
  1
FROM generate_series(%(low)s, %(high)s - 1) AS n
"""


def user_id(number: int) -> str:
    """Return the id of user `number`."""
    return f"01890000-0000-7000-8000-{number:012x}"


def email(number: int) -> str:
    """Return the email of user `number`."""
    return f"user{number}@example.com"


def create_time(number: int) -> datetime:
    """Return the creation time of user `number`; higher numbers are later."""
    return _FIRST_CREATE_TIME + timedelta(seconds=number)


@dataclass
class Sink:
    """An OTLP receiver that counts server spans.

    Attributes:
        endpoint: URL on which it listens.
        server_spans: Number of server spans received.
    """

    endpoint: str = ""
    server_spans: int = 0

    async def Export(self, request: Any, _: object) -> Any:  # noqa: N802 - the name in the proto
        """Receive a batch of spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server_spans += sum(span.kind == trace_pb2.Span.SPAN_KIND_SERVER for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def open_sink() -> AsyncIterator[Sink]:
    """Run a sink on loopback."""
    sink = Sink()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(sink, server)  # type: ignore[no-untyped-call] # generated
    sink.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield sink
    finally:
        await server.stop(None)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the servers run with.

    Attributes:
        folder: Folder for the files of processes.
        users_url: URL of the database for UserService.
        issuer: Issuer URL.
        rows: Number of users in the database.
        server_core: CPU core of the servers, or None if processes are not pinned.
    """

    folder: Path
    users_url: str
    issuer: str
    rows: int
    server_core: int | None

    def environment(self, sink: Sink | None = None, sample_ratio: float = 1.0) -> dict[str, str]:
        """Return the settings of a server: hybrid verification, metrics, JSON logs, spans to `sink`."""
        issuer = {
            "issuer": self.issuer,
            "audience": "gatehouse-api",
            "client_id": _API[0],
            "client_secret": _API[1],
            # The maximum, so that every call but the first is answered from the token cache.
            "revocation_budget_seconds": 300,
        }
        settings = {
            "GATEHOUSE_ISSUERS": json.dumps([issuer]),
            "GATEHOUSE_TLS__PLAINTEXT": "true",
            "GATEHOUSE_USERS__DATABASE_URL": self.users_url,
            "GATEHOUSE_USERS__PORT": "0",
            "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
            "GATEHOUSE_LOG__FORMAT": "json",
        }
        if sink is not None:
            settings |= {
                "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": sink.endpoint,
                "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
                "GATEHOUSE_TELEMETRY__SAMPLE_RATIO": str(sample_ratio),
            }
        return settings

    async def authorization(self) -> tuple[str, str]:
        """Return a metadata entry with a new access token of a service account."""
        async with httpx.AsyncClient(trust_env=False) as http:
            response = await http.post(
                f"{self.issuer}/protocol/openid-connect/token",
                data={"grant_type": "client_credentials", "scope": "read:users"},
                auth=WORKER,
            )
        if response.status_code != httpx.codes.OK:
            raise BenchmarkError(f"the token endpoint of the issuer returned status {response.status_code}")
        return ("authorization", f"Bearer {response.json()['access_token']}")


@asynccontextmanager
async def open_environment(rows: int, server_core: int | None) -> AsyncIterator[Environment]:
    """Run PostgreSQL with `rows` users and the issuer, both on the core of this process."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder())
        url = stack.enter_context(_postgres(folder, rows))
        issuer = await stack.enter_async_context(_issuer(folder))
        yield Environment(folder, url, issuer.ready["issuer"], rows, server_core)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gh-bench-", dir=temporary_folder(find_account())))
    folder.chmod(0o711)  # as root, another account runs PostgreSQL
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgres(folder: Path, rows: int) -> Iterator[str]:
    """Run PostgreSQL with the migrated schema and users; yield the URL for UserService."""
    server = PostgresServer(folder / "pg", os.environ, rules="host all all 127.0.0.1/32 trust\n")
    server.create()
    server.start()
    try:
        uri = server.url()
        migrate(uri, migration_branches())
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(_INSERT, {"first": _FIRST_CREATE_TIME, "low": 0, "high": rows})
            connection.execute("VACUUM ANALYZE users.users")
            connection.execute("CHECKPOINT")
        yield (
            sa.make_url(uri)
            .set(username=SERVICES["users"].login_role())
            .render_as_string(hide_password=False)
        )
    finally:
        server.stop()


@asynccontextmanager
async def _issuer(folder: Path) -> AsyncIterator[Process]:
    arguments = ["-m", "gatehouse", "issuer", "--port", "0", "--realm", str(REALM_FILE)]
    async with run_process("issuer", arguments, folder=folder) as process:
        yield process
