"""Streaming standbys of a PostgreSQL server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from gatehouse_testbed.postgres_server import PostgresServer
from tests.support.database import TRUST, owner_url, run_postgres

RULES = TRUST + "host replication all 127.0.0.1/32 trust\n"
_SETTINGS = {"synchronous_commit": "off", "wal_keep_size": "64MB", "wal_retrieve_retry_interval": "50ms"}


@contextmanager
def run_primary(
    prepare: Callable[[PostgresServer], None], standbys: Sequence[str]
) -> Iterator[PostgresServer]:
    """Run a server that standbys follow.

    Args:
        prepare: Called with the server before the standbys are made.
        standbys: Names for run_standby.
    """
    with run_postgres(RULES, **_SETTINGS) as server:
        prepare(server)
        server.stop()
        for name in standbys:
            folder = server.folder.with_name(name)
            subprocess.run(["cp", "--archive", str(server.folder), str(folder)], check=True)
            (folder / "standby.signal").touch()
        server.start()
        yield server


@contextmanager
def run_standby(primary: PostgresServer, name: str) -> Iterator[PostgresServer]:
    """Run a hot standby that `run_primary` has made."""
    follow = f"host=127.0.0.1 port={primary.port} user=postgres sslmode=disable"
    server = PostgresServer(
        primary.folder.with_name(name),
        os.environ,
        rules=RULES,
        settings=_SETTINGS | {"primary_conninfo": follow},
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def paused_replay(standby: PostgresServer) -> Iterator[None]:
    """Let a standby receive what the primary writes, but not make it visible."""
    with psycopg.connect(owner_url(standby), autocommit=True) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")
