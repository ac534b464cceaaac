"""The servers that are measured and are not `gatehouse serve`: `python -m benchmarks.servers NAME`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg_pool
import uvloop

from gatehouse.app.services import settings_model
from gatehouse.oauth import MultiIssuerVerifier
from gatehouse.rpc import PolicyOptions, RpcMetrics, Server, ServerTelemetry, Service
from gatehouse.runtime.grpc_tuning import is_active, lower_polling_thread_priority
from gatehouse.runtime.http_clients import HttpClients
from gatehouse.runtime.issuers import IssuerTelemetry
from gatehouse.runtime.signals import StopSignals, run_until_signal
from gatehouse.runtime.telemetry import make_telemetry
from gatehouse.settings import environment, load_settings
from gatehouse.users.v1 import users_pb2 as pb

ECHO = "benchmarks.v1.Echo"
ECHO_PATH = f"/{ECHO}/Echo"
USERS = "gatehouse.users.v1.UserService"
GET_USER_PATH = f"/{USERS}/GetUser"
_GET_USER = (
    "SELECT user_id, email, display_name, state, subject, create_time, update_time, version "
    "FROM users.users WHERE user_id = %s"
)


async def echo(request: pb.GetUserRequest, _: object) -> pb.GetUserRequest:
    """Return the request, a message with one field that protovalidate checks to be a UUID."""
    return request


def _echo_handlers() -> dict[str, Any]:
    return {
        "Echo": grpc.unary_unary_rpc_method_handler(
            echo, pb.GetUserRequest.FromString, pb.GetUserRequest.SerializeToString
        )
    }


def _add_echo(_: object, server: Any) -> None:
    server.add_registered_method_handlers(ECHO, _echo_handlers())


async def _serve_bare(service: str, handlers: dict[str, Any], ready_file: Path, *, tuned: bool) -> None:
    """Serve handlers as in the grpcio documentation, without anything else.

    Args:
        service: `package.Service`.
        handlers: Its handlers, by method.
        ready_file: Written with the port.
        tuned: Whether to lower the priority of gRPC's polling thread; the environment selects the listener.
    """
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if tuned:
        lower_polling_thread_priority()
    _write(ready_file, {"port": port})
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)


async def bare_echo(ready_file: Path, *, tuned: bool = False) -> None:
    """Serve an echo on grpc.aio and uvloop, without anything else."""
    await _serve_bare(ECHO, _echo_handlers(), ready_file, tuned=tuned)


async def bare_users(ready_file: Path, *, tuned: bool = False) -> None:
    """Serve GetUser as one handler with one psycopg query, without anything else."""
    settings = load_settings(settings_model())
    pool_size, url = settings.database.pool_size, environment()["GATEHOUSE_USERS__DATABASE_URL"]

    async with psycopg_pool.AsyncConnectionPool(
        url,
        min_size=pool_size,
        max_size=pool_size,
        kwargs={"autocommit": True},
        open=False,
    ) as pool:
        await pool.wait()

        async def get_user(request: pb.GetUserRequest, context: Any) -> pb.User:
            async with pool.connection() as connection:
                cursor = await connection.execute(_GET_USER, (uuid.UUID(request.user_id),))
                row = await cursor.fetchone()
            if row is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "user not found")
                return pb.User()
            user_id, email, display_name, state, subject, create_time, update_time, version = row
            user = pb.User(
                user_id=str(user_id),
                email=email,
                display_name=display_name,
                state=state,
                subject=subject or "",
                etag=str(version),
            )
            user.create_time.FromDatetime(create_time)
            user.update_time.FromDatetime(update_time)
            return user

        handler = grpc.unary_unary_rpc_method_handler(
            get_user, pb.GetUserRequest.FromString, pb.User.SerializeToString
        )
        await _serve_bare(USERS, {"GetUser": handler}, ready_file, tuned=tuned)


async def chain_echo(ready_file: Path) -> None:
    """Serve the same echo behind the whole chain of `gatehouse serve`."""
    settings = load_settings(settings_model())
    telemetry = make_telemetry(settings.telemetry, settings.log, "gatehouse-echo")
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        stack.push_async_callback(telemetry.aclose, 1.0)
        metrics = RpcMetrics(telemetry.meter)
        observer = IssuerTelemetry(telemetry.logger, telemetry.meter)
        http_for = HttpClients(settings.issuers, telemetry.tracer, settings.tls.reload_seconds, stack)
        verifier = MultiIssuerVerifier(
            settings.issuers, http_for=http_for, tracer=telemetry.tracer, observer=observer
        )
        stack.push_async_callback(verifier.aclose)
        await verifier.start()
        server = Server(
            [Service(_add_echo, None)],
            verifier=verifier,
            tls=settings.tls,
            telemetry=ServerTelemetry(telemetry.logger, telemetry.tracer, metrics),
            settings=settings.server,
            policy=PolicyOptions(method_scopes={ECHO_PATH[1:]: ["read:users"]}),
            problems=lambda: () if verifier.ready else observer.problems() or ("STARTING",),
        )
        port = await server.start()
        stack.push_async_callback(server.stop)
        if is_active(settings.server.grpc_tuning):
            lower_polling_thread_priority()
        _write(ready_file, {"port": port, "metrics": telemetry.metrics_port})
        gc.collect()
        gc.freeze()
        await run_until_signal([server], signals)


def _write(path: Path, content: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)


SERVERS: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {
    "bare-echo": bare_echo,
    "bare-echo-tuned": partial(bare_echo, tuned=True),
    "bare-users": bare_users,
    "bare-users-tuned": partial(bare_users, tuned=True),
    "chain-echo": chain_echo,
}


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__)
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--ready-file", type=Path, required=True)
    arguments = parser.parse_args()
    uvloop.run(SERVERS[arguments.name](arguments.ready_file))


if __name__ == "__main__":
    main()
