"""Where a test bed listens, and the name by which its clients reach it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httpx
import pytest

from gatehouse.app.services import SERVICES
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.addresses import CONTROL_PORT, ISSUER_PORT, Addresses
from gatehouse_testbed.bed.client import run_testbed
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.web import listen
from tests.support.eventually import eventually


def test_clients_use_localhost_if_the_test_bed_listens_on_all_addresses() -> None:
    everywhere = Addresses.create("0.0.0.0", None, 0, 0, default_ports=False)
    assert (everywhere.name, everywhere.url(80)) == ("localhost", "http://localhost:80")
    assert Addresses.create("0::0", None, 0, 0, default_ports=False).url(80) == "http://localhost:80"
    for host in ("127.0.0.1", "localhost", "::1"):
        assert Addresses.create(host, None, 0, 0, default_ports=False).name == host


def test_ports_are_free_or_always_the_same_unless_they_are_given() -> None:
    free = Addresses.create("127.0.0.1", None, 0, 7, default_ports=False)
    assert (free.control, free.issuer, free.services) == (0, 7, {})
    same = Addresses.create("127.0.0.1", None, 0, 7, default_ports=True)
    assert (same.control, same.issuer) == (CONTROL_PORT, 7)
    assert Addresses.create("127.0.0.1", None, 5, 0, default_ports=True).issuer == ISSUER_PORT
    assert same.services == {name: spec.default_port for name, spec in SERVICES.items()}
    assert len({CONTROL_PORT, ISSUER_PORT, *same.services.values()}) == len(SERVICES) + 2


@pytest.mark.parametrize("name", ["", "fe80::1%lo", "[::1]", "a b", "*", "\udcff", "a:1", "x" * 300])
def test_malformed_host_is_refused_with_its_option(name: str) -> None:
    with pytest.raises(TestbedError, match=r"^--host '.*': must be a host name or an IP address"):
        Addresses.create(name, None, 0, 0, default_ports=False)
    with pytest.raises(TestbedError, match=r"^--name '.*': must be a host name or an IP address"):
        Addresses.create("127.0.0.1", name, 0, 0, default_ports=False)


async def test_test_bed_listens_on_an_ipv6_address() -> None:
    with run_testbed("--host", "0:0::1") as testbed:
        assert testbed.issuer.startswith("http://[::1]:")
        testbed.faults.add("GetUser", disconnect=True, times=1)
        credentials = grpc.ssl_channel_credentials(testbed.ca_file.read_bytes())
        async with grpc.aio.secure_channel(testbed.targets["users"], credentials) as channel:
            stub: Any = users_pb2_grpc.UserServiceStub(channel)
            metadata = [("authorization", f"Bearer {testbed.token('alice')}")]
            request = users_pb2.GetUserRequest(user_id=testbed.users["bob"])
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await stub.GetUser(request, metadata=metadata, timeout=20)

            async def succeeds() -> bool:
                with suppress(grpc.aio.AioRpcError):  # the connection may still be closing
                    return bool(await stub.GetUser(request, metadata=metadata, timeout=20))
                return False

            await eventually(succeeds)


def test_host_that_is_not_this_machine_is_an_error_of_one_line() -> None:
    with pytest.raises(TestbedError, match=r"^\[2001:db8::1\]:0: cannot listen \(.*\); use an address"):
        listen("2001:db8::1", 0)


def test_test_bed_is_reached_by_its_name_and_by_no_other() -> None:
    with run_testbed("--issuer-only", "--host", "0.0.0.0", "--name", "127.0.0.2") as testbed:
        control, issuer = urlsplit(testbed.control_url), urlsplit(testbed.issuer)
        assert (control.hostname, issuer.hostname) == ("127.0.0.2", "127.0.0.2")
        assert testbed.token("alice")
        with httpx.Client(trust_env=False) as http:
            # The services use another URL than the clients, and get other endpoints there.
            for address in ("127.0.0.1", "127.0.0.2"):
                realm = f"http://{address}:{issuer.port}/realms/gatehouse"
                document = http.get(f"{realm}/.well-known/openid-configuration").json()
                assert document["issuer"] == testbed.issuer
                assert document["token_endpoint"] == f"{realm}/protocol/openid-connect/token"
                assert document["authorization_endpoint"].startswith(testbed.issuer)
            assert http.get(f"http://127.0.0.1:{control.port}").is_success
            assert http.get(testbed.control_url, headers={"host": "rebound.example"}).status_code == 400
