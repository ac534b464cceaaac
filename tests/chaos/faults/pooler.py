"""PgBouncer between the services and PostgreSQL, in transaction mode, is restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from gatehouse_testbed.postgres import port_of, with_port
from tests.chaos.environment import Environment, Target
from tests.chaos.model import UNAVAILABLE, Fault, Run
from tests.support.pgbouncer import PgBouncer, find_pgbouncer, run_pgbouncer
from tests.support.toolchains import Missing


def _missing() -> str:
    try:
        find_pgbouncer()
    except Missing as error:
        return str(error)
    return ""


@asynccontextmanager
async def _pooled(environment: Environment) -> AsyncIterator[Target]:
    """Run a replica that reaches PostgreSQL through PgBouncer."""
    url = environment.stack.postgres.urls()["users"]
    login = urlsplit(url)
    with run_pgbouncer(port_of(url), {login.username or "": unquote(login.password or "")}) as bouncer:
        async with environment.replicas(GATEHOUSE_USERS__DATABASE_URL=with_port(url, bouncer.port)) as target:
            target.control = bouncer
            yield target


@asynccontextmanager
async def _restarted(run: Run) -> AsyncIterator[None]:
    bouncer: PgBouncer = run.target.control
    await asyncio.to_thread(bouncer.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(bouncer.start)


FAULTS = (
    Fault(
        "pgbouncer-restarted",
        "PgBouncer in front of PostgreSQL is killed and started again",
        _restarted,
        target=_pooled,
        codes=UNAVAILABLE,
        reasons=frozenset({"DATABASE_UNAVAILABLE", "DATABASE_BUSY"}),
        not_serving_within=3.0,
        missing=_missing,
    ),
)
