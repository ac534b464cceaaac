"""Another PostgreSQL server on this machine, which accepts all logins and which no test may touch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from gatehouse_testbed.postgres_server import PostgresServer
from tests.support.database import run_postgres

ADDRESS = "127.0.0.9"
RULES = "host all all 127.0.0.0/8 trust\n"


class ForeignServer:
    """The server on ADDRESS.

    Args:
        server: The server.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.port = server.port
        self._own_connections = 0

    @property
    def variables(self) -> dict[str, str]:
        """Variables that make every libpq client connect to this server, whatever its URL says."""
        return {"PGHOSTADDR": ADDRESS, "PGPORT": str(self.port), "PGUSER": "postgres"}

    def state(self) -> tuple[list[Any], list[Any], int]:
        """Return its databases, its roles with passwords, and how often others have connected."""
        self._own_connections += 1
        with psycopg.connect(host=ADDRESS, port=self.port, user="postgres", sslmode="disable") as connection:
            databases = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
            roles = connection.execute("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1").fetchall()
        connections = self._server.log.read_text().count("received: host=127.")
        return databases, roles, connections - self._own_connections


@pytest.fixture(scope="session")
def foreign_server() -> Iterator[ForeignServer]:
    """Start the other server."""
    with run_postgres(RULES, listen_addresses=ADDRESS, log_connections="on") as server:
        yield ForeignServer(server)
