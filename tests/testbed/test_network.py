"""Faults of the network, observed by stock gRPC, HTTP and PostgreSQL clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed, run_testbed

Code = grpc.StatusCode


def address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def open_channel(gatehouse: Testbed, certificate: bytes | None = None) -> grpc.aio.Channel:
    """Open a channel to UserService that shares no connection."""
    credentials = grpc.ssl_channel_credentials(certificate or gatehouse.ca_file.read_bytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(gatehouse.targets["users"], credentials, options)


async def code_of(channel: grpc.aio.Channel, timeout: float = 20) -> grpc.StatusCode:
    """Return the code of a call without a token."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def current_user(gatehouse: Testbed, token: str) -> grpc.StatusCode:
    """Return the code of a call that needs the database."""
    credentials = grpc.ssl_channel_credentials(gatehouse.ca_file.read_bytes())
    async with grpc.aio.secure_channel(gatehouse.targets["users"], credentials) as channel:
        stub: Any = users_pb2_grpc.UserServiceStub(channel)
        try:
            await stub.GetCurrentUser(
                users_pb2.GetCurrentUserRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=20
            )
        except grpc.aio.AioRpcError as error:
            return error.code()
    return Code.OK


async def test_reset_closes_open_and_new_connections(gatehouse: Testbed) -> None:
    async with open_channel(gatehouse) as channel:
        assert await code_of(channel) is Code.OK
        fault = gatehouse.faults.add("network/users", reset=True)
        assert await code_of(channel) is Code.UNAVAILABLE
        gatehouse.faults.remove(fault)
        async with open_channel(gatehouse) as later:
            assert await code_of(later) is Code.OK


async def test_blackhole_ends_when_it_is_removed(gatehouse: Testbed) -> None:
    async with open_channel(gatehouse) as channel:
        assert await code_of(channel) is Code.OK
        fault = gatehouse.faults.add("network/users", blackhole=True)
        assert await code_of(channel, 0.3) is Code.DEADLINE_EXCEEDED
        waiting = asyncio.create_task(code_of(channel))
        gatehouse.faults.remove(fault)
        assert await waiting is Code.OK


def test_times_counts_new_connections(gatehouse: Testbed) -> None:
    name = list(gatehouse.targets)[-1]
    gatehouse.faults.add(f"network/{name}", reset=True, times=2)

    def handshake() -> None:
        context = ssl.create_default_context(cafile=gatehouse.ca_file)
        with socket.create_connection(address(gatehouse.targets[name]), timeout=20) as plain:
            context.wrap_socket(plain, server_hostname="127.0.0.1").close()

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            handshake()
    handshake()


async def test_another_fault_takes_the_place_of_a_removed_one(gatehouse: Testbed) -> None:
    async with open_channel(gatehouse) as channel:
        assert await code_of(channel) is Code.OK
        first = gatehouse.faults.add("network/users", blackhole=True)
        gatehouse.faults.add("network/users", bytes_per_second=1)
        gatehouse.faults.remove(first)
        assert await code_of(channel, 0.3) is Code.DEADLINE_EXCEEDED
        gatehouse.faults.reset()
        assert await code_of(channel) is Code.OK


def test_connections_are_refused_until_the_last_fault_is_removed(gatehouse: Testbed) -> None:
    name = list(gatehouse.targets)[-1]
    host, port = address(gatehouse.targets[name])
    with socket.create_connection((host, port), timeout=20) as opened:
        first = gatehouse.faults.add(f"network/{name}", refuse=True)
        gatehouse.faults.add(f"network/{name}", refuse=True)
        with pytest.raises(ConnectionResetError):
            opened.recv(1)
    gatehouse.faults.remove(first)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=20)
    gatehouse.reset()
    socket.create_connection((host, port), timeout=20).close()


def test_test_bed_ends_while_connections_are_refused() -> None:
    with run_testbed("--issuer-only") as testbed:
        host, _, _ = testbed.issuer.removeprefix("http://").partition("/")
        testbed.faults.add("network/issuer", refuse=True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address(host), timeout=20)


def test_client_that_sends_no_more_gets_its_response(gatehouse: Testbed) -> None:
    host, _, _ = gatehouse.issuer.removeprefix("http://").partition("/")
    with socket.create_connection(address(host), timeout=20) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000).startswith(b"HTTP/1.1 404")


def test_delay_and_bandwidth(gatehouse: Testbed) -> None:
    url = f"{gatehouse.issuer}/.well-known/openid-configuration"
    with httpx.Client(trust_env=False) as client:
        size = len(client.get(url).content)

        def seconds() -> float:
            began = time.monotonic()
            assert client.get(url).status_code == 200
            return time.monotonic() - began

        delay = gatehouse.faults.add("network/issuer", delay_seconds=0.1)
        assert seconds() >= 0.2  # request and response
        gatehouse.faults.remove(delay)
        gatehouse.faults.add("network/issuer", bytes_per_second=size * 5)
        assert seconds() >= 0.2


def test_response_is_cut_off(gatehouse: Testbed) -> None:
    host = gatehouse.issuer.split("/")[2]
    gatehouse.faults.add("network/issuer", reset_after_bytes=20)
    with socket.create_connection(address(host), timeout=20) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert client.recv(20, socket.MSG_WAITALL) == b"HTTP/1.1 404 Not Fou"
        with pytest.raises(ConnectionResetError):
            client.recv(20)


async def test_database_connections_are_cut_off(gatehouse: Testbed) -> None:
    token = gatehouse.token("alice")
    fault = gatehouse.faults.add("network/database", reset=True)
    assert await current_user(gatehouse, token) is Code.UNAVAILABLE
    gatehouse.faults.remove(fault)
    assert await current_user(gatehouse, token) is Code.OK


async def test_database_is_slow(gatehouse: Testbed) -> None:
    token = gatehouse.token("alice")
    gatehouse.faults.add("network/database", delay_seconds=0.1)
    began = time.monotonic()
    assert await current_user(gatehouse, token) is Code.OK
    assert time.monotonic() - began >= 0.2  # statement and result


@pytest.mark.parametrize("certificate", ["expired", "wrong_name", "unknown_authority"])
async def test_client_that_verifies_refuses_a_bad_certificate(gatehouse: Testbed, certificate: str) -> None:
    reasons = {
        "expired": "certificate has expired",
        "wrong_name": "IP address mismatch",
        "unknown_authority": "unable to get local issuer certificate",
    }
    async with open_channel(gatehouse) as channel:
        assert await code_of(channel) is Code.OK
        fault = gatehouse.faults.add("network/users", certificate=certificate)
        assert await code_of(channel) is Code.UNAVAILABLE
    with (
        pytest.raises(ssl.SSLCertVerificationError, match=reasons[certificate]),
        socket.create_connection(address(gatehouse.targets["users"]), timeout=20) as plain,
    ):
        ssl.create_default_context(cafile=gatehouse.ca_file).wrap_socket(plain, server_hostname="127.0.0.1")
    gatehouse.faults.remove(fault)
    async with open_channel(gatehouse) as channel:
        assert await code_of(channel) is Code.OK


async def test_client_that_trusts_another_authority_reaches_the_service(gatehouse: Testbed) -> None:
    gatehouse.faults.add("network/users", certificate="unknown_authority")
    certificate = ssl.get_server_certificate(address(gatehouse.targets["users"]))
    async with open_channel(gatehouse, certificate.encode()) as channel:
        assert await code_of(channel) is Code.OK


@pytest.mark.parametrize(
    ("target", "effects", "reason"),
    [
        ("network/postgres", {"reset": True}, "no such part; use one of network/issuer, network/users"),
        ("network/issuer", {"certificate": "expired"}, "only services have a certificate"),
        ("network/users", {}, "has no effect; set one of delay_seconds"),
        ("network/users", {"refuse": True, "times": 1}, "use reset with times or probability"),
        ("network/users", {"certificate": "none"}, "expired"),
    ],
)
def test_fault_without_a_meaning_is_refused(
    gatehouse: Testbed, target: str, effects: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        gatehouse.faults.add(target, **effects)
    assert gatehouse.faults.list() == {}
