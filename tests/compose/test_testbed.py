"""The image of the test bed, started as Testcontainers starts it: with ports that Docker chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import httpx
import pytest

from gatehouse.app.services import SERVICES
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.ports import free_port
from tests.support.compose import PROJECT, run
from tests.support.eventually import eventually

TESTBED = f"{PROJECT}-testbed:local"
CONFINED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")


class Container:
    """A running test bed, confined like the services.

    Args:
        issuer_port: Port of the issuer, inside and outside.
        arguments: Further arguments of the test bed.
    """

    def __init__(self, issuer_port: int, arguments: Sequence[str] = ()) -> None:
        ports = (f"{issuer_port}:{issuer_port}", ":8081", ":50051")
        published = [f"--publish=127.0.0.1:{port}" for port in ports]
        command = ("testbed", "--host=0.0.0.0", "--default-ports", f"--issuer-port={issuer_port}", *arguments)
        self.id = run("docker", "run", "--detach", *CONFINED, *published, TESTBED, *command).stdout
        self.id = self.id.strip()

    def address(self, port: int) -> str:
        """Return where a port of the container can be reached."""
        published = run("docker", "port", self.id, str(port)).stdout.split()[0]
        return f"localhost:{published.rpartition(':')[2]}"

    def state(self, attribute: str) -> str:
        """Return an attribute of the state of the container."""
        return run("docker", "inspect", f"--format={{{{.State.{attribute}}}}}", self.id).stdout.strip()

    def wait(self) -> Testbed:
        """Wait until it is healthy, and return the test bed."""
        asyncio.run(eventually(lambda: self.state("Health.Status") == "healthy", interval=0.2))
        url = f"http://{self.address(8081)}"
        description: dict[str, Any] = httpx.get(url, trust_env=False).json()
        return Testbed(description | {"control_url": url})

    def get_bob(self, testbed: Testbed, token: str) -> str:
        """Call UserService with a stock client, and return the email address of bob."""
        authority = httpx.get(testbed.control_url, trust_env=False).json()["ca_certificate"]
        credentials = grpc.ssl_channel_credentials(authority.encode())
        with grpc.secure_channel(self.address(50051), credentials) as channel:
            request = users_pb2.GetUserRequest(user_id=testbed.users["bob"])
            metadata = [("authorization", f"Bearer {token}")]
            user = users_pb2_grpc.UserServiceStub(channel).GetUser(request, metadata=metadata, timeout=30)
            return str(user.email)


@pytest.fixture
def start(stack: None) -> Iterator[Callable[..., Container]]:
    """Return a function that starts a container; see Container for its arguments."""
    del stack  # it builds the image
    started: list[Container] = []

    def make(*arguments: Any) -> Container:
        started.append(Container(*arguments))
        return started[-1]

    yield make
    for container in started:
        run("docker", "rm", "--force", container.id)


def test_test_bed_in_a_container_is_reached_through_published_ports(start: Callable[..., Container]) -> None:
    port = free_port()
    container = start(port)
    testbed = container.wait()
    assert testbed.issuer == f"http://localhost:{port}/realms/gatehouse"
    discovered = httpx.get(f"{testbed.issuer}/.well-known/openid-configuration", trust_env=False).json()
    assert discovered["issuer"] == testbed.issuer
    granted = httpx.post(
        discovered["token_endpoint"],
        data={"grant_type": "client_credentials", "scope": "read:users"},
        auth=("gatehouse-worker", testbed.clients["gatehouse-worker"]),
        trust_env=False,
    )
    testbed.faults.add("GetUser", code="UNAVAILABLE", times=1)
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        container.get_bob(testbed, testbed.token("alice"))
    assert container.get_bob(testbed, testbed.token("alice")) == "bob@example.test"
    assert container.get_bob(testbed, granted.json()["access_token"]) == "bob@example.test"
    assert [call.code for call in testbed.calls("GetUser")] == ["UNAVAILABLE", "OK", "OK"]
    testbed.close()
    run("docker", "stop", container.id)
    assert container.state("ExitCode") == "0"


def test_test_bed_in_a_container_can_have_a_name_that_it_cannot_resolve(
    start: Callable[..., Container],
) -> None:
    name, port = "gatehouse.test", free_port()
    container = start(port, [f"--name={name}"])
    testbed = container.wait()
    assert testbed.issuer == f"http://{name}:{port}/realms/gatehouse"
    assert set(testbed.targets.values()) == {f"{name}:{spec.default_port}" for spec in SERVICES.values()}
    # Its certificate is also for localhost.
    assert container.get_bob(testbed, testbed.token("alice")) == "bob@example.test"
    testbed.close()
