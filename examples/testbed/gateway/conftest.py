"""The gateway, and a client that calls UserService through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from gateway import run_gateway

from gatehouse.users.v1 import users_pb2, users_pb2_grpc


class Client:
    """Calls UserService with an access token.

    Args:
        target: Address.
        token: Access token.
        more: Further metadata.
    """

    def __init__(self, target: str, token: str, *more: tuple[str, str]) -> None:
        # Only the gateway retries.
        self.channel = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])
        self.stub = users_pb2_grpc.UserServiceStub(self.channel)
        self.metadata = [("authorization", f"Bearer {token}"), *more]

    def call(self, method: str, request: Any = None, timeout: float = 10) -> Any:
        """Call a method; CountUsers needs no request."""
        request = users_pb2.CountUsersRequest() if request is None else request
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=timeout)


@pytest.fixture(scope="session")
def gateway(gatehouse_session) -> Iterator[str]:
    """One gateway for all tests: the addresses of the test bed never change."""
    bed = gatehouse_session
    with run_gateway(bed.targets["users"], bed.ca_file, bed.issuer) as target:
        yield target


@pytest.fixture
def own_gateway(gatehouse) -> Iterator[str]:
    """A gateway for one test, which replaces keys or breaks connections."""
    with run_gateway(gatehouse.targets["users"], gatehouse.ca_file, gatehouse.issuer, 0.2) as target:
        yield target


@pytest.fixture
def connect(gatehouse) -> Iterator[Callable[..., Client]]:
    """Return a function that opens a client, by default with a good token of alice."""
    opened = []

    def open_client(target: str, *more: tuple[str, str], token: str | None = None) -> Client:
        opened.append(Client(target, gatehouse.token("alice") if token is None else token, *more))
        return opened[-1]

    yield open_client
    for client in opened:
        client.channel.close()
