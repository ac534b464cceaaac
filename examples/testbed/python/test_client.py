"""Tests of the client: the services fail when and how a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from client import LoginRequired, UserClient

GET_USER = "gatehouse.users.v1.UserService/GetUser"


@pytest.fixture
def connect(gatehouse) -> Iterator[Callable[..., UserClient]]:
    """Return a function that opens a client with an access token, by default a good one of alice."""
    opened = []

    def make(token: str | None = None) -> UserClient:
        token = gatehouse.token("alice") if token is None else token
        client = UserClient(gatehouse.targets["users"], gatehouse.ca_file, token)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


def test_client_retries_while_the_service_is_unavailable(gatehouse, connect) -> None:
    gatehouse.faults.add(GET_USER, code="UNAVAILABLE", times=2)
    assert connect().get_user(gatehouse.users["bob"]).email == "bob@example.test"
    assert [call.code for call in gatehouse.calls("GetUser")] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


def test_client_gives_up_after_three_attempts(gatehouse, connect) -> None:
    gatehouse.faults.add(GET_USER, code="UNAVAILABLE")
    with pytest.raises(grpc.RpcError):
        connect().get_user(gatehouse.users["bob"])
    assert len(gatehouse.calls("GetUser")) == 3


def test_client_does_not_retry_a_call_that_took_too_long(gatehouse, connect) -> None:
    client = connect()
    client.get_user(gatehouse.users["bob"])  # opens the connection, so that the time is that of the call
    gatehouse.faults.add(GET_USER, hang=True)
    with pytest.raises(grpc.RpcError) as caught:
        client.get_user(gatehouse.users["bob"], timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", ["expired", "revoked", "wrong_audience", "opaque"])
def test_client_asks_for_a_login_if_its_token_is_not_accepted(gatehouse, connect, kind) -> None:
    with pytest.raises(LoginRequired):
        connect(gatehouse.token("alice", name=kind)).get_user(gatehouse.users["bob"])
    assert len(gatehouse.calls("GetUser")) == 1


def test_client_asks_for_a_login_when_its_token_expires(gatehouse, connect) -> None:
    client = connect()
    client.get_user(gatehouse.users["bob"])
    gatehouse.clock.advance(days=1)
    with pytest.raises(LoginRequired):
        client.get_user(gatehouse.users["bob"])


def test_client_works_again_after_an_outage_of_the_issuer(gatehouse, connect) -> None:
    client = connect()
    gatehouse.faults.add("issuer/introspection", status=503)
    with pytest.raises(grpc.RpcError):
        client.get_user(gatehouse.users["bob"])
    gatehouse.faults.reset()
    # The services ask an issuer that has failed again after a pause.
    gatehouse.clock.advance(minutes=1)
    assert client.get_user(gatehouse.users["bob"]).email == "bob@example.test"
