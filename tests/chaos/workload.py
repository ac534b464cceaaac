"""The load of every fault: reads, writes with a ledger, a watch, and the health."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.chaos.environment import CurrentToken, Environment, Target
from tests.support.eventually import eventually
from tests.support.load import Health, Load, Watch, health_of

CALL_SECONDS = 5.0
WORKERS = 2
PAUSE_SECONDS = 0.05
SETTLE_SECONDS = 60.0
# A watch resumes after each of these.
_RESUME = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
)


@dataclass
class Ledger:
    """The writes of a load: those to send again, and those that were acknowledged.

    Attributes:
        unanswered: Requests whose outcome is unknown.
        acknowledged: Ids of the users that were returned for each email.
        token: Token of the last write, if reads may come from standbys.
        newest: Latest time of creation of an acknowledged user.
    """

    unanswered: deque[pb.CreateUserRequest] = field(default_factory=deque)
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    token: str = "0"
    newest: int = 0

    @property
    def ids(self) -> list[str]:
        """Ids of all acknowledged users."""
        return [user_id for ids in self.acknowledged.values() for user_id in ids]

    def next(self) -> pb.CreateUserRequest:
        """Return a request that was not answered, or a new one."""
        if self.unanswered:
            return self.unanswered.popleft()
        user = pb.User(email=f"{uuid.uuid4().hex}@example.test", display_name="Alice")
        return pb.CreateUserRequest(user=user, request_id=str(uuid.uuid4()))

    async def lost(self, environment: Environment) -> int:
        """Return how many acknowledged users are not in the database."""
        rows = await environment.sql(
            "SELECT user_id::text FROM users.users WHERE user_id = ANY(%s::uuid[])", [self.ids]
        )
        return len(set(self.ids) - {row[0] for row in rows})

    async def doubled(self, environment: Environment) -> int:
        """Return how many writes were applied twice: in a response, or in the audit trail."""
        resources = [f"users/{user_id}" for user_id in self.ids]
        rows = await environment.sql(
            "SELECT resource FROM users.audit_events WHERE action = 'user.created' AND resource = ANY(%s)"
            " GROUP BY resource HAVING count(*) > 1",
            [resources],
        )
        return len(rows) + sum(len(ids) - 1 for ids in self.acknowledged.values())


@dataclass
class Workload:
    """A running load and what it has seen.

    Attributes:
        load: The calls: reads without retries with a token of the second issuer, writes as a client makes
            them with a token of the development issuer.
        ledger: The writes.
        watch: A watch that resumes.
        health: Readiness.
        liveness: Liveness.
        tokens: The token of the reads, which a fault may replace.
    """

    load: Load
    ledger: Ledger
    watch: Watch
    health: Health
    liveness: Health
    tokens: CurrentToken
    _retry: Any

    async def settle(self) -> None:
        """Send every request again that was not answered, until it is."""

        async def answered() -> bool:
            try:
                while self.ledger.unanswered:
                    await self._retry()
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(answered, SETTLE_SECONDS, PAUSE_SECONDS)

    async def missing_in_watch(self) -> tuple[int, int]:
        """Wait for the watch; return how many acknowledged writes it misses, and how many it has twice."""
        wanted = set(self.ledger.ids)
        with suppress(AssertionError):
            await eventually(lambda: wanted <= set(self.watch.seen), 20)
        counts = Counter(self.watch.seen)
        return len(wanted - set(counts)), sum(count > 1 for count in counts.values())


@asynccontextmanager
async def open_workload(
    environment: Environment, target: Target, workers: int, *, retries: bool
) -> AsyncIterator[Workload]:
    """Open the clients of a load on `target`; the caller starts `load`."""
    ports = target.ports
    reader_tokens, writer_tokens = environment.second_token(), environment.worker()
    ledger = Ledger()
    rng = random.Random(0)
    async with AsyncExitStack() as exits:
        bare = await exits.enter_async_context(environment.bare_channel(ports))
        reading = await exits.enter_async_context(environment.channel(ports)) if retries else bare
        writing = await exits.enter_async_context(environment.channel(ports, writer_tokens))
        watching = await exits.enter_async_context(environment.channel(ports, reader_tokens))
        reader: Any = users_pb2_grpc.UserServiceStub(reading)
        writer: Any = users_pb2_grpc.UserServiceStub(writing)

        async def read(method: Any, request: Any) -> Any:
            metadata = [("authorization", f"Bearer {await reader_tokens.token()}")]
            metadata += [("x-write-token", ledger.token)] if target.standbys else []
            return await method(request, metadata=metadata, timeout=CALL_SECONDS)

        async def create_user() -> None:
            request = ledger.next()
            try:
                call = writer.CreateUser(request, timeout=CALL_SECONDS)
                user, trailers = await call, dict(await call.trailing_metadata())
            except BaseException:
                ledger.unanswered.append(request)
                raise
            ledger.token = max(ledger.token, trailers.get("x-write-token", ""))
            ledger.newest = max(ledger.newest, user.create_time.ToNanoseconds())
            ledger.acknowledged.setdefault(request.user.email, set()).add(user.user_id)

        async def get_user() -> None:
            user_id = rng.choice(ledger.ids[-100:])
            assert (await read(reader.GetUser, pb.GetUserRequest(user_id=user_id))).user_id == user_id

        async def list_users() -> None:
            newest = ledger.newest
            request = pb.ListUsersRequest(page_size=5, order_by="create_time desc")
            users = (await read(reader.ListUsers, request)).users
            assert not target.standbys or users[0].create_time.ToNanoseconds() >= newest

        async def count_users() -> None:
            await read(reader.CountUsers, pb.CountUsersRequest())

        health = await exits.enter_async_context(health_of(bare, "", resume=True))
        liveness = await exits.enter_async_context(health_of(bare, "liveness", resume=True))
        # A proxy resets the stream of a replica that is gone, which gRPC reports as INTERNAL.
        resume = (*_RESUME, grpc.StatusCode.INTERNAL) if target.entry else _RESUME
        watch = Watch(users_pb2_grpc.UserServiceStub(watching), resume)
        exits.push_async_callback(watch.aclose)
        async with asyncio.timeout(SETTLE_SECONDS):
            await watch.opened.wait()
        await create_user()  # so that there is one to get
        load = Load(create_user, get_user, list_users, count_users, workers=workers, pause=PAUSE_SECONDS)
        yield Workload(load, ledger, watch, health, liveness, reader_tokens, create_user)
