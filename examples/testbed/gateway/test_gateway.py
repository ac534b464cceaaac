"""Tests of the gateway, with an issuer and services that fail as each test needs it."""

from __future__ import annotations

import time
import uuid
from queue import SimpleQueue

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from gatehouse.users.v1 import users_pb2
from gatehouse_testbed.bed.tokens import NAMED_TOKENS

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CREATE = users_pb2.CreateUserRequest(
    user=users_pb2.User(email="new@example.test", display_name="New"), request_id=str(uuid.uuid4())
)


def error_of(function, *arguments, **options) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        function(*arguments, **options)
    return caught.value


def succeeds(client) -> bool:
    try:
        client.call("CountUsers")
    except grpc.RpcError:
        return False
    return True


def eventually(condition) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True


# The gateway verifies tokens without introspection, and limits their size in another way than the services.
@pytest.mark.parametrize("name", sorted(NAMED_TOKENS.keys() - {"revoked", "oversized"}))
def test_bad_token_does_not_reach_the_service(gatehouse, gateway, connect, name) -> None:
    kind = gatehouse.token_kinds()[name]
    client = connect(gateway, token=gatehouse.token("alice", name=name))
    assert succeeds(client) == kind.accepted, kind.description
    assert len(gatehouse.calls()) == kind.accepted


def test_revoked_token_is_refused_by_the_service(gatehouse, gateway, connect) -> None:
    error = error_of(connect(gateway, token=gatehouse.token("alice", name="revoked")).call, "CountUsers")
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [call.reason for call in gatehouse.calls()] == ["TOKEN_INACTIVE"]


def test_new_keys_are_used_and_old_ones_are_not(gatehouse, own_gateway, connect) -> None:
    before = connect(own_gateway)
    assert succeeds(before)
    gatehouse.rotate_keys(overlap=False)
    after = connect(own_gateway)
    eventually(lambda: succeeds(after))
    assert not succeeds(before)


@pytest.mark.parametrize("effect", [{"status": 500}, {"hang": True}])
def test_no_call_passes_without_the_keys(gatehouse, own_gateway, connect, effect) -> None:
    client = connect(own_gateway)
    gatehouse.faults.add("issuer/jwks", **effect)
    assert not succeeds(client)
    gatehouse.faults.reset()
    eventually(lambda: succeeds(client))
    assert [call.code for call in gatehouse.calls()] == ["OK"]


def test_subject_is_added_and_cannot_be_forged(gatehouse, gateway, connect) -> None:
    connect(gateway, ("x-gateway-subject", "someone"), ("x-tenant", "acme")).call("CountUsers")
    (call,) = gatehouse.calls()
    assert call.metadata["x-gateway-subject"] != ["someone"]
    assert len(call.metadata["x-gateway-subject"]) == 1
    assert call.metadata["x-tenant"] == ["acme"]


def test_trace_goes_on_in_the_service(gatehouse, gateway, connect) -> None:
    connect(gateway, ("traceparent", f"00-{TRACE}-{SPAN}-01")).call("CountUsers")
    assert [span.parent_id for span in gatehouse.spans(TRACE, "CountUsers")] == [SPAN]


def test_read_is_tried_again(gatehouse, gateway, connect) -> None:
    gatehouse.faults.add("CountUsers", code="UNAVAILABLE", times=2)
    connect(gateway).call("CountUsers")
    assert [call.code for call in gatehouse.calls()] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


def test_write_whose_response_is_lost_is_not_tried_again(gatehouse, gateway, connect) -> None:
    client = connect(gateway)
    gatehouse.faults.add("CreateUser", code="UNAVAILABLE", after_messages=1, times=1)
    assert error_of(client.call, "CreateUser", CREATE).code() is grpc.StatusCode.UNAVAILABLE
    assert len(gatehouse.calls("CreateUser")) == 1
    # The caller can: a request with the same id gets the first response.
    assert client.call("CreateUser", CREATE).email == "new@example.test"
    assert client.call("CountUsers").total_count == len(gatehouse.users) + 1


def test_deadline_ends_the_call_of_the_service(gatehouse, gateway, connect) -> None:
    client = connect(gateway)
    assert succeeds(client)
    gatehouse.faults.add("CountUsers", hang=True)
    error = error_of(client.call, "CountUsers", timeout=1)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The call is recorded shortly after its caller has cancelled it; at_least waits for that.
    ended = gatehouse.calls("CountUsers", at_least=2)[1]
    assert ended.code in {"CANCELLED", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("effect", [{"refuse": True}, {"certificate": "wrong_name"}])
def test_service_that_cannot_be_reached_is_unavailable(gatehouse, own_gateway, connect, effect) -> None:
    client = connect(own_gateway)
    gatehouse.faults.add("network/users", **effect)
    assert error_of(client.call, "CountUsers").code() is grpc.StatusCode.UNAVAILABLE
    gatehouse.faults.reset()
    eventually(lambda: succeeds(client))


def test_details_of_an_error_pass(gatehouse, gateway, connect) -> None:
    request = users_pb2.DeleteUserRequest(user_id=gatehouse.users["carol"])
    error = error_of(connect(gateway, token=gatehouse.token("bob")).call, "DeleteUser", request)
    trailers = dict(error.trailing_metadata())
    assert 'error="insufficient_scope"' in trailers["www-authenticate"]
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    assert info.reason == "INSUFFICIENT_SCOPE"


def test_stream_that_breaks_off_passes_its_status(gatehouse, gateway, connect) -> None:
    gatehouse.faults.add("WatchUsers", code="UNAVAILABLE", after_messages=1)
    watch = connect(gateway).call("WatchUsers", users_pb2.WatchUsersRequest())
    assert next(watch).resume_token
    assert error_of(next, watch).code() is grpc.StatusCode.UNAVAILABLE


def test_messages_pass_in_both_directions_while_a_stream_is_open(gatehouse, gateway, connect) -> None:
    requests: SimpleQueue[users_pb2.LookupUsersRequest | None] = SimpleQueue()
    responses = connect(gateway).call("LookupUsers", iter(requests.get, None))
    for name in ("bob", "carol"):
        requests.put(users_pb2.LookupUsersRequest(user_id=gatehouse.users[name]))
        assert next(responses).user.email == f"{name}@example.test"
    requests.put(None)
    assert list(responses) == []
