"""Outages and recovery of parts of the running system, under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

# <part admin>
from gatehouse.admin.v1 import admin_pb2, admin_pb2_grpc

# </part admin>
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from gatehouse_testbed.ports import free_port
from tests.support.eventually import eventually
from tests.support.load import NOT_SERVING, SERVING, Load, Watch, health_of, reason_of
from tests.support.services import FixedToken
from tests.support.system import BUDGET_SECONDS, DRAIN_SECONDS, System


def email() -> str:
    return f"{uuid.uuid4().hex}@example.test"


async def test_readiness_follows_an_outage_of_the_database(system: System) -> None:
    token = FixedToken(system.user_token("alice", "read:users admin"))
    async with (
        system.channel("users", tokens=token) as channel,
        health_of(channel, "gatehouse.users.v1.UserService") as ready,
        health_of(channel, "liveness") as alive,
        health_of(channel, "") as process_ready,
    ):
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        await asyncio.gather(*(users.CountUsers(pb.CountUsersRequest()) for _ in range(20)))
        try:
            await asyncio.to_thread(system.stop_database)
            await eventually(lambda: NOT_SERVING in ready.statuses and NOT_SERVING in process_ready.statuses)
            for call in (
                users.CountUsers(pb.CountUsersRequest(), timeout=20),
                users.ListUsers(pb.ListUsersRequest(), timeout=20),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert reason_of(caught.value) == "DATABASE_UNAVAILABLE"
        finally:
            system.start_database()  # in this thread, with which the server ends
        await eventually(lambda: ready.statuses[-1] == process_ready.statuses[-1] == SERVING)
        # Not one of the old connections is tried again.
        await asyncio.gather(*(users.CountUsers(pb.CountUsersRequest()) for _ in range(20)))
    assert (ready.statuses, alive.statuses, process_ready.statuses) == (
        [SERVING, NOT_SERVING, SERVING],
        [SERVING],
        [SERVING, NOT_SERVING, SERVING],
    )


async def test_no_call_fails_when_keys_rotate(system: System) -> None:
    async with system.channel("users") as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        current = [system.user_token("bob", "read:users")]

        async def count() -> None:
            metadata = (("authorization", f"Bearer {current[-1]}"),)
            await users.CountUsers(pb.CountUsersRequest(), metadata=metadata)

        async with Load(count, workers=4) as load:
            await load.more(20)
            await asyncio.to_thread(system.rotate_keys)
            await load.more(20)
            fresh = await asyncio.to_thread(system.user_token, "bob", "read:users")
            assert fresh.partition(".")[0] != current[0].partition(".")[0]
            current.append(fresh)
            await load.more(20)
    assert load.failures == []


async def test_cached_tokens_work_while_the_issuer_hangs(
    system: System,
) -> None:
    known, new = (system.user_token("bob", "read:users") for _ in range(2))
    async with system.channel("users") as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)

        async def count(token: str) -> None:
            metadata = (("authorization", f"Bearer {token}"),)
            await users.CountUsers(pb.CountUsersRequest(), metadata=metadata, timeout=20)

        issuer = system.programs["issuer"].process
        await count(known)
        issuer.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await count(new)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(caught.value) == "ISSUER_UNAVAILABLE"
        finally:
            issuer.send_signal(signal.SIGCONT)

        async def admitted() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await count(new)
                return True
            return False

        await eventually(admitted)


async def test_outage_of_an_issuer_affects_only_its_tokens_until_it_returns_with_new_keys(
    system: System,
) -> None:
    here = system.user_token("bob", "read:users")
    there, unseen = (system.user_token("bob", "read:users", "other issuer") for _ in range(2))
    async with system.channel("users") as channel, health_of(channel, "") as health:
        users: Any = users_pb2_grpc.UserServiceStub(channel)

        async def code(token: str) -> grpc.StatusCode:
            metadata = (("authorization", f"Bearer {token}"),)
            call = users.CountUsers(pb.CountUsersRequest(), metadata=metadata, timeout=20)
            found: grpc.StatusCode = await call.code()
            return found

        assert await code(there) is grpc.StatusCode.OK
        system.programs["other issuer"].end()
        assert await code(unseen) is grpc.StatusCode.UNAVAILABLE
        assert await code(here) is grpc.StatusCode.OK
        await asyncio.to_thread(system.start_issuer, "other issuer")

        async def fresh() -> str:
            with contextlib.suppress(httpx.TransportError):
                return await asyncio.to_thread(system.user_token, "bob", "read:users", "other issuer")
            return ""

        token = await eventually(fresh)

        async def admitted() -> bool:
            return await code(token) is grpc.StatusCode.OK

        await eventually(admitted)
        # What the issuer no longer knows is over.
        assert await code(unseen) is grpc.StatusCode.UNAUTHENTICATED
        assert health.statuses == [SERVING]


# <part admin>
async def test_revoked_token_is_denied_at_once_online_and_within_the_budget_elsewhere(
    system: System,
) -> None:
    token = system.user_token("alice", "read:users admin manage:roles")
    source = FixedToken(token)
    async with (
        system.channel("admin", tokens=source) as admin_channel,
        system.channel("users", tokens=source) as users_channel,
    ):
        admin: Any = admin_pb2_grpc.AdminServiceStub(admin_channel)
        users: Any = users_pb2_grpc.UserServiceStub(users_channel)
        watch = users.WatchUsers(pb.WatchUsersRequest())
        await watch.read()
        await admin.ListRoleBindings(admin_pb2.ListRoleBindingsRequest())
        await asyncio.to_thread(system.revoke, token)
        revoked_at = asyncio.get_running_loop().time()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin.ManageRoles(
                admin_pb2.ManageRolesRequest(user_id=str(uuid.uuid4()), grant_roles=["user"])
            )
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "TOKEN_INACTIVE",
        )

        async def code_now() -> grpc.StatusCode:
            began = asyncio.get_running_loop().time()
            call = admin.ListRoleBindings(admin_pb2.ListRoleBindingsRequest())
            code: grpc.StatusCode = await call.code()
            assert code is grpc.StatusCode.UNAUTHENTICATED or began <= revoked_at + BUDGET_SECONDS
            return code

        while await code_now() is grpc.StatusCode.OK:
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            assert await watch.code() is grpc.StatusCode.UNAUTHENTICATED


# </part admin>


async def test_replica_loses_no_call_at_sigterm(system: System) -> None:
    port = free_port()
    ready = system.folder / "replica.json"
    replica = system.spawn(
        "serve",
        "users",
        "--ready-file",
        str(ready),
        GATEHOUSE_USERS__PORT=str(port),
    )
    await eventually(ready.exists)
    assert json.loads(ready.read_text())["users"] == port
    source = FixedToken(system.client_token("gatehouse-worker", "read:users write:users"))
    async with (
        system.channel("users", port, tokens=source) as alone,
        system.channel("users", port, system.ports["users"], tokens=source) as channel,
        health_of(alone, "") as health,
    ):
        await eventually(lambda: SERVING in health.statuses)
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        made: list[str] = []

        async def unary() -> None:
            user = pb.User(email=email(), display_name="Alice")
            request = pb.CreateUserRequest(user=user, request_id=str(uuid.uuid4()))
            made.append((await users.CreateUser(request, timeout=30)).user_id)

        async def lookups() -> None:
            ids = [str(uuid.uuid4()) for _ in range(5)]
            call = users.LookupUsers([pb.LookupUsersRequest(user_id=i) for i in ids], timeout=30)
            assert [a.user_id async for a in call] == ids

        async def imports() -> None:
            async def rows() -> AsyncIterator[pb.ImportUsersRequest]:
                for number in range(1, 6):
                    yield pb.ImportUsersRequest(row_number=number, email=email(), display_name="Bob")
                    await asyncio.sleep(0.01)

            response = await users.ImportUsers(rows(), timeout=30)
            assert response.created_count == 5

        watch = Watch(users)
        await watch.opened.wait()
        async with Load(unary, lookups, imports) as load:
            await load.more(10)
            replica.process.send_signal(signal.SIGTERM)
            await eventually(lambda: NOT_SERVING in health.statuses)
            await load.more(10)
            assert await replica.code() == 0
            await load.more(10)
        await eventually(lambda: set(made) <= set(watch.seen) or watch.failures)
        await watch.aclose()
    assert (load.failures, watch.failures) == ([], [])
    assert len(watch.seen) == len(set(watch.seen))
    assert replica.lines("stopped")


async def test_workers_share_a_port_and_drain_together_and_stop_at_a_second_signal(system: System) -> None:
    port = free_port()
    ready = system.folder / "workers.json"
    workers = system.spawn(
        "serve",
        "users",
        "--workers",
        "2",
        "--ready-file",
        str(ready),
        GATEHOUSE_USERS__PORT=str(port),
    )
    await eventually(ready.exists)
    assert json.loads(ready.read_text())["users"] == port
    source = FixedToken(system.user_token("bob", "read:users"))
    async with contextlib.AsyncExitStack() as stack:
        # A connection stays with one worker: open some until both have one.
        calls: list[Any] = []
        for _ in range(24):
            channel = await stack.enter_async_context(system.channel("users", port, tokens=source))
            stub: Any = users_pb2_grpc.UserServiceStub(channel)
            calls.append(stub.LookupUsers(wait_for_ready=True))
            await calls[-1].write(pb.LookupUsersRequest(user_id=str(uuid.uuid4())))
            assert (await calls[-1].read()).error.code
        workers.process.send_signal(signal.SIGTERM)
        # All these calls are let end, though they are on two workers.
        await eventually(lambda: _refuses(port))
        for call in calls[1:]:
            await call.write(pb.LookupUsersRequest(user_id=str(uuid.uuid4())))
            assert (await call.read()).error.code
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
        # One does not, and would hold the drain up to its end.
        assert workers.process.poll() is None
        began = asyncio.get_running_loop().time()
        workers.process.send_signal(signal.SIGTERM)
        await workers.code()
        assert asyncio.get_running_loop().time() - began < DRAIN_SECONDS
    peers = {line["pids"][n] for line in workers.lines("workers") for n in range(2)}
    assert len(peers) == 2
    assert len(workers.lines("listening")) == 2


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False
