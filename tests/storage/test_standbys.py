"""Which reads a standby answers: fresh ones of callers whose writes it has. All others are not for it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import psutil
import psycopg
import pytest
import sqlalchemy as sa
import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from structlog.testing import LogCapture

from gatehouse.app.services import SERVICES, migration_branches, settings_model
from gatehouse.client import connect
from gatehouse.rpc import Server, ServerTelemetry, Service
from gatehouse.runtime import ServiceContext
from gatehouse.runtime.databases import Standbys, open_database, standby_connector
from gatehouse.runtime.doctor.database import check_standby
from gatehouse.settings import ServerSettings
from gatehouse.storage import Database, DirectSelect
from gatehouse.storage.errors import DatabaseUnavailable
from gatehouse.storage.migrations import migrate
from gatehouse.storage.standbys import HORIZON, StandbyConnector, StandbyReads, WriteToken
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from gatehouse_testbed.postgres_server import PostgresServer
from tests.support.database import named, owner_url
from tests.support.eventually import eventually
from tests.support.rpc import PLAINTEXT, TableVerifier, principal
from tests.support.services import ALL_SCOPES, FixedToken, quiet, random_email
from tests.support.standby import paused_replay, run_primary, run_standby

# The servers of these tests are reached without a pooler.
pytestmark = pytest.mark.session

PORT = sa.func.inet_server_port().label("port")
QUERY = DirectSelect(sa.select(sa.func.count().label("count"), PORT, HORIZON).select_from(sa.table("writes")))
SLOW = DirectSelect(sa.select(sa.func.pg_sleep(sa.literal_column("30")).label("slept"), HORIZON))
NOTHING = WriteToken(0, 0)
MAX_STALENESS = 1.0
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'"


def execute(server: PostgresServer, statement: str) -> None:
    with psycopg.connect(owner_url(server), autocommit=True) as connection:
        connection.execute(statement.encode())


def login(server: PostgresServer) -> str:
    """URL of a role without any privilege but for its table."""
    return named(owner_url(server), "postgres", "reader")


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    def prepare(server: PostgresServer) -> None:
        migrate(owner_url(server), migration_branches(), passwords={"users": "secret"})
        execute(server, "CREATE TABLE writes (name text); CREATE ROLE reader LOGIN")
        execute(server, "GRANT SELECT, INSERT ON writes TO reader")

    with run_primary(prepare, ("standby", "lost", "promoted", "successor")) as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    with run_standby(primary, "standby") as server:
        yield server


@dataclass
class Reader:
    """What one of several processes has.

    Attributes:
        database: Connections to the primary.
        reads: Reads from a standby.
        tokens: Those of its writes.
        changes: Reasons why the standby is not used, "" if it is used.
        sources: What has answered reads.
    """

    database: Database
    reads: StandbyReads
    tokens: list[str]
    changes: list[str]
    sources: list[str]

    async def write(self) -> WriteToken:
        async with self.database.write() as connection:
            await connection.execute(sa.text("INSERT INTO writes VALUES ('a')"))
        token = WriteToken.parse(self.tokens[-1])
        assert token is not None
        return token

    async def read(self, token: WriteToken = NOTHING, query: DirectSelect = QUERY) -> Any:
        async def read(database: Database, check: Callable[[Any], Any]) -> Any:
            return check(await query.first(database, {}))

        return await self.reads.answer(token, read) or await QUERY.first(self.database, {})

    async def port(self, token: WriteToken = NOTHING) -> int:
        """Return the port of the server that answers a read."""
        return int((await self.read(token)).port)

    async def uses(self, server: PostgresServer) -> None:
        async def uses() -> bool:
            return await self.port() == server.port

        await eventually(uses)

    async def reports(self, reason: str) -> None:
        await eventually(lambda: self.changes[-1:] == [reason])


@asynccontextmanager
async def open_reader(
    primary: PostgresServer | Callable[[], PostgresServer], standby: Callable[[], PostgresServer]
) -> AsyncIterator[Reader]:
    """Open a reader; `primary` and `standby` return the server that the next connection reaches."""
    tokens: list[str] = []
    changes: list[str] = []
    sources: list[str] = []
    database = Database(
        lambda: login(primary if isinstance(primary, PostgresServer) else primary()),
        pool_size=2,
        on_write=tokens.append,
    )
    reads = StandbyReads(
        database,
        StandbyConnector(lambda: login(standby())),
        max_staleness=MAX_STALENESS,
        pool_size=2,
        on_read=sources.append,
        on_change=lambda reason, _: changes.append(reason),
    )
    await reads.start()
    try:
        yield Reader(database, reads, tokens, changes, sources)
    finally:
        await reads.aclose()
        await database.aclose()


async def test_standby_answers_while_it_is_fresh_and_has_the_writes_of_the_caller(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    async with (
        open_reader(primary, lambda: standby) as reader,
        open_reader(primary, lambda: standby) as other,
    ):
        await reader.uses(standby)
        await other.uses(standby)
        with paused_replay(standby):
            before = await reader.read()
            token = await reader.write()
            for each in (reader, other):
                row = await each.read(token)
                assert (row.port, row.count) == (primary.port, before.count + 1)
            await other.reports("STANDBY_BEHIND")
            assert await other.port() == primary.port
        await other.reports("")

        async def has_it() -> bool:
            row = await other.read(token)
            assert row.count == before.count + 1
            return bool(row.port == standby.port)

        await eventually(has_it)


async def test_answer_of_another_server_than_was_compared_is_checked_as_well(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    """Behind a load balancer, each connection may reach another standby."""
    with run_standby(primary, "lost") as stale, paused_replay(stale):
        servers = itertools.chain([standby], itertools.repeat(stale))
        async with open_reader(primary, lambda: next(servers)) as reader:
            token = await reader.write()
            await eventually(lambda: reader.reads.reached >= token.horizon)
            expected = (await QUERY.first(reader.database, {})).count
            assert (await reader.read(token)).count == expected
            assert reader.sources == ["primary"]


async def test_token_that_no_standby_can_have_reached_is_for_the_primary(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    async with open_reader(primary, lambda: standby) as reader:
        await reader.uses(standby)
        timeline, horizon = await reader.write()
        assert await reader.port(WriteToken(timeline + 1, horizon)) == primary.port
        assert await reader.port(WriteToken(timeline, horizon + 1000)) == primary.port


async def test_transaction_without_a_change_returns_a_token_for_what_it_saw(primary: PostgresServer) -> None:
    """A repeated request returns the response of the first one."""
    tokens: list[str] = []
    database = Database(login(primary), pool_size=1, on_write=tokens.append)
    for statement in ("INSERT INTO writes VALUES ('b')", "SELECT FROM writes"):
        async with database.write() as connection:
            await connection.execute(sa.text(statement))
    await database.aclose()
    written, seen = tokens
    assert seen >= written


async def test_lost_standby_delays_a_read_but_does_not_fail_it(primary: PostgresServer) -> None:
    with run_standby(primary, "lost") as server:
        async with open_reader(primary, lambda: server) as reader:
            await reader.uses(server)
            assert server.pid is not None
            processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
            for process in processes:
                process.suspend()
            assert await reader.port() == primary.port
            await eventually(lambda: reader.changes[-1])
            for process in processes:
                process.resume()
            await reader.uses(server)
            server.stop(signal.SIGQUIT)
            assert await reader.port() == primary.port
            await reader.reports("DATABASE_UNAVAILABLE")


async def test_read_that_takes_too_long_is_made_at_the_primary(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    async with open_reader(primary, lambda: standby) as reader:
        await reader.uses(standby)
        assert (await reader.read(query=SLOW)).port == primary.port
        await reader.uses(standby)


async def test_promoted_standby_is_not_used_even_when_it_is_a_standby_again(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    with run_standby(primary, "promoted") as server:
        async with open_reader(primary, lambda: server) as reader:
            await reader.uses(server)
            execute(server, "SELECT pg_promote()")
            assert await reader.port() == primary.port
            await reader.reports("STANDBY_UNUSABLE")
            # It becomes the primary, and then the former one responds again.
            primaries = [server]
            async with open_reader(lambda: primaries[-1], lambda: standby) as moved:
                await moved.reports("STANDBY_UNUSABLE")
                primaries.append(primary)
                execute(server, END_SESSIONS)
                await moved.reports("PRIMARY_UNUSABLE")
                assert await moved.port() == primary.port
            for _ in range(9):  # its ids are those of other transactions on the primary
                execute(server, "INSERT INTO writes VALUES ('lost')")
            server.stop()
            (server.folder / "standby.signal").touch()
            server.start()
        async with open_reader(primary, lambda: server) as reader:
            await reader.reports("STANDBY_UNUSABLE")
            assert await reader.port() == primary.port


async def test_former_primary_is_not_used_after_a_failover(primary: PostgresServer) -> None:
    """It may still respond, until it learns of the failover."""
    with run_standby(primary, "successor") as server:
        ports = [primary.port, server.port]

        def url() -> str:
            one, other = (f"127.0.0.1:{port}" for port in ports)
            return login(primary).replace(f"127.0.0.1:{primary.port}", f"{one},{other}")

        database = Database(url, pool_size=2)

        async def first(query: Any = PORT) -> int:
            database.renew()
            async with database.read() as connection:
                return int((await connection.execute(sa.select(query))).scalar_one())

        async def sleep() -> None:
            async with database.read() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(600)"))

        async def sleeps() -> bool:
            return await first(sa.text("count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")) == 1

        try:
            ports.reverse()
            assert await first() == server.port  # still a standby
            ports.reverse()
            assert await first() == primary.port
            pending = asyncio.create_task(sleep())
            await eventually(sleeps)
            execute(server, "SELECT pg_promote()")
            ports.reverse()
            assert await first() == server.port
            with pytest.raises(DatabaseUnavailable):
                await pending
            ports.reverse()
            with pytest.raises(DatabaseUnavailable) as refused:
                await first()
            assert "former primary" in refused.value.detail
            ports.reverse()
            assert await first() == server.port
            # Managed databases do not always provide it.
            execute(server, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            assert await first() == server.port
        finally:
            await database.aclose()


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("0", NOTHING),
        ("00000001000000000000000f", WriteToken(1, 15)),
        ("00000001000000000000000F", None),
        ("1", None),
        ("0" * 25, None),
        ("", None),
    ],
)
def test_token_has_one_form(text: str, token: WriteToken | None) -> None:
    assert WriteToken.parse(text) == token


@dataclass
class Replica:
    """A UserService as one of several processes runs it."""

    users: users_pb2_grpc.UserServiceAsyncStub
    metrics: InMemoryMetricReader
    log: list[Any]

    async def write(self, method: str, request: Any) -> tuple[Any, str]:
        """Return the response and the token of a write."""
        call = getattr(self.users, method)(request)
        return await call, dict(await call.trailing_metadata())["x-write-token"]

    async def get(self, user_id: str, *tokens: str) -> pb.User:
        metadata = tuple(("x-write-token", token) for token in tokens)
        return await self.users.GetUser(pb.GetUserRequest(user_id=user_id), metadata=metadata)

    async def names(self, *tokens: str) -> list[str]:
        metadata = tuple(("x-write-token", token) for token in tokens)
        response = await self.users.ListUsers(pb.ListUsersRequest(), metadata=metadata)
        return [user.display_name for user in response.users]

    def reads(self, source: str) -> int:
        """Return how many reads a source has answered."""
        data: Any = self.metrics.get_metrics_data()
        scopes = [] if data is None else data.resource_metrics[0].scope_metrics
        metrics = [m for scope in scopes for m in scope.metrics if m.name == "gatehouse.database.reads"]
        points = [point for metric in metrics for point in metric.data.data_points]
        return sum(p.value for p in points if p.attributes == {"service": "users", "source": source})


def settings_of(primary: PostgresServer, standby: PostgresServer) -> Any:
    """Return settings with a standby; its login is that of the primary."""
    section = {
        "database_url": named(owner_url(primary), "postgres", "gatehouse_users", "secret"),
        "standby_url": f"postgresql://127.0.0.1:{standby.port}/postgres?sslmode=disable",
        "max_staleness_seconds": MAX_STALENESS,
    }
    return settings_model()(**cast("Any", {"users": section}))


async def test_doctor_checks_the_standby(primary: PostgresServer, standby: PostgresServer) -> None:
    spec = SERVICES["users"]
    connector = standby_connector(settings_of(primary, standby), spec)
    assert connector is not None
    assert (await check_standby(spec, connector)).endswith(", as gatehouse_users")


@asynccontextmanager
async def serve(primary: PostgresServer, standby: PostgresServer) -> AsyncIterator[Replica]:
    """Serve UserService with settings that name a standby."""
    settings = settings_of(primary, standby)
    spec, metrics = SERVICES["users"], InMemoryMetricReader()
    meter = MeterProvider([metrics]).get_meter("test")
    log = LogCapture()
    logger = structlog.wrap_logger(None, processors=[log])
    verifier = TableVerifier()
    verifier.answers["alice"] = principal(*ALL_SCOPES, roles=("admin",))
    async with AsyncExitStack() as stack:
        database = open_database(settings, spec)
        stack.push_async_callback(database.aclose)
        context = ServiceContext(
            settings=settings.users,
            database=database,
            issuers=(),
            http_for=cast("Any", None),
            issuer_asked=lambda *_: None,
            client_tls=PLAINTEXT,
            channel_options=(),
            rules={},
            logger=quiet(),
            tracer=cast("Any", None),
            meter=meter,
            clock=time.time,
            monotonic=time.monotonic,
            exit_stack=stack,
            standbys=Standbys(settings, logger, meter, None).open(spec, database),
        )
        built = await spec.build(context)
        for work in built.background:
            await work.start()
            stack.push_async_callback(work.aclose)
        server = Server(
            [Service(spec.register, built.servicer)],
            verifier=verifier,
            tls=PLAINTEXT,
            telemetry=ServerTelemetry(quiet()),
            settings=ServerSettings(),
        )
        target = f"127.0.0.1:{await server.start()}"
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(connect(target, tls=PLAINTEXT, tokens=FixedToken("alice")))
        yield Replica(users_pb2_grpc.UserServiceStub(channel), metrics, log.entries)


def new_user() -> pb.CreateUserRequest:
    return pb.CreateUserRequest(user=pb.User(email=random_email(), display_name="Alice"))


async def test_callers_of_several_replicas_see_their_own_writes(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    async with serve(primary, standby) as one, serve(primary, standby) as other:
        user, first = await one.write("CreateUser", new_user())

        async def standby_answers() -> bool:
            assert await other.get(user.user_id, first) == user
            assert await other.names(first) == ["Alice"]
            return other.reads("standby") > 1

        await eventually(standby_answers)
        with paused_replay(standby):
            renamed = pb.User(user_id=user.user_id, display_name="Bob")
            _, second = await one.write("UpdateUser", pb.UpdateUserRequest(user=renamed))
            # By the largest token, or from the primary, as all callers that send none.
            for tokens in ([second], [first, second], [second, first], [], ["unknown"]):
                assert (await other.get(user.user_id, *tokens)).display_name == "Bob"
                assert await other.names(*tokens) == ["Bob"]
            # No standby decides that a user does not exist.
            created, _ = await one.write("CreateUser", new_user())
            assert await other.get(created.user_id, "0") == created
            _, third = await one.write("DeleteUser", pb.DeleteUserRequest(user_id=user.user_id))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other.get(user.user_id, third)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            await eventually(lambda: len(other.log) > 1)
        assert first < second < third
        assert other.reads("primary")
        behind = {"reason": "STANDBY_BEHIND", "detail": "it is more than 1 s behind the primary"}
        assert other.log[:2] == [
            {"event": "standby used", "log_level": "info", "database": "users"},
            {"event": "standby not used", "log_level": "warning", "database": "users", **behind},
        ]
