"""The test bed, observed from outside by stock gRPC and HTTP clients."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import jwt
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed, run_testbed
from gatehouse_testbed.bed.endpoints import ENDPOINTS
from gatehouse_testbed.bed.tokens import NAMED_TOKENS
from gatehouse_testbed.errors import TestbedError
from tests.support.command import Command
from tests.support.eventually import eventually

Code = grpc.StatusCode
GET_USER = "gatehouse.users.v1.UserService/GetUser"


async def code_of(call: Any) -> grpc.StatusCode:
    """Return the status with which a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


def authorization(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)


class Client:
    """A stock client of UserService."""

    def __init__(self, testbed: Testbed, channel: grpc.aio.Channel, token: str | None = None) -> None:
        self.stub = users_pb2_grpc.UserServiceStub(channel)
        self.bob = testbed.users["bob"]
        self.metadata = authorization(testbed.token("alice") if token is None else token)

    def get_bob(self, timeout: float = 10) -> Any:
        request = users_pb2.GetUserRequest(user_id=self.bob)
        return self.stub.GetUser(request, metadata=self.metadata, timeout=timeout)

    def watch(self) -> Any:
        return self.stub.WatchUsers(users_pb2.WatchUsersRequest(), metadata=self.metadata, timeout=20)


async def test_calls_succeed_and_are_recorded(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    client = Client(gatehouse, channel)
    client.metadata += (("x-tenant", "a"), ("x-tenant", "b"), ("x-blob-bin", b"\0\1"))
    assert (await client.get_bob()).email == "bob@example.test"
    (call,) = gatehouse.calls("GetUser")
    assert (call.method, call.code, call.caller, call.rpc_type) == (GET_USER, "OK", "alice", "unary")
    assert call.metadata["authorization"] == [client.metadata[0][1]]
    assert (call.metadata["x-tenant"], call.metadata["x-blob-bin"]) == (["a", "b"], ["AAE="])
    assert "Bearer" not in repr(call)
    assert gatehouse.calls("gatehouse.users.v1.UserService/ListUsers") == []
    assert [r.status for r in gatehouse.issuer_requests("introspection")] == [200]


@pytest.mark.parametrize("name", NAMED_TOKENS)
async def test_named_token_is_accepted_or_refused(
    gatehouse: Testbed, channel: grpc.aio.Channel, name: str
) -> None:
    kind = gatehouse.token_kinds()[name]
    client = Client(gatehouse, channel, gatehouse.token("alice", name=name))
    expected = Code.OK if kind.accepted else Code.UNAUTHENTICATED
    assert await code_of(client.get_bob()) is expected, kind.description
    assert gatehouse.calls("GetUser")[0].code == expected.name


def test_token_with_the_public_key_as_secret_has_a_signature_of_it(gatehouse: Testbed) -> None:
    """A server that lets `alg` choose would accept it."""
    token = gatehouse.token("alice", name="alg_hmac")
    keys = httpx.get(f"{gatehouse.issuer}/protocol/openid-connect/certs", trust_env=False).json()["keys"]
    header = jwt.get_unverified_header(token)
    (key,) = (jwt.PyJWK(key).key for key in keys if key["kid"] == header["kid"])
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    content, _, signature = token.rpartition(".")
    mac = hmac.digest(pem, content.encode(), "sha256")
    assert (header["alg"], base64.urlsafe_b64decode(signature + "=")) == ("HS256", mac)


async def test_token_has_the_content_that_was_asked_for(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    narrow = gatehouse.token("alice", scope="read:users", lifetime_seconds=7, algorithm="RS256")
    stub = users_pb2_grpc.UserServiceStub(channel)
    request = users_pb2.DeleteUserRequest(user_id=gatehouse.users["bob"])
    assert await code_of(stub.DeleteUser(request, metadata=authorization(narrow))) is Code.PERMISSION_DENIED
    assert await code_of(Client(gatehouse, channel, narrow).get_bob()) is Code.OK
    gatehouse.clock.advance(seconds=8)
    assert await code_of(Client(gatehouse, channel, narrow).get_bob()) is Code.UNAUTHENTICATED
    worker = gatehouse.token(client="gatehouse-worker")
    assert (
        await code_of(stub.GetCurrentUser(Empty(), metadata=authorization(worker)))
        is not Code.UNAUTHENTICATED
    )
    claimed = gatehouse.token("alice", claims={"aud": None})
    assert await code_of(Client(gatehouse, channel, claimed).get_bob()) is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"user": "nobody"}, "nobody: unknown user"),
        ({"client": "nothing"}, "nothing: unknown client"),
        ({"name": "odd"}, "odd: unknown token; use one of valid, expired"),
        ({"algorithm": "HS256"}, "the algorithm is not ES256 or RS256"),
        ({"user": None}, "gatehouse-console: has no service account"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"scope": "read:users read:user"}, "read:user: gatehouse-console may not request these scopes"),
    ],
)
def test_token_that_cannot_be_made_is_an_error_that_says_why(
    gatehouse: Testbed, content: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        gatehouse.token(**{"user": "alice", **content})


async def test_fault_affects_as_many_calls_as_asked(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    gatehouse.faults.add(GET_USER, code="UNAVAILABLE", message="try again", times=2)
    client = Client(gatehouse, channel)
    with pytest.raises(grpc.aio.AioRpcError, match="try again"):
        await client.get_bob()
    codes = [await code_of(client.get_bob()) for _ in range(2)]
    assert codes == [Code.UNAVAILABLE, Code.OK]
    assert [call.code for call in gatehouse.calls("GetUser")] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]
    assert [call.reason for call in gatehouse.calls("GetUser")] == ["INJECTED_FAULT", "INJECTED_FAULT", ""]
    with pytest.raises(ValueError, match="at_least: Input should be greater"):
        gatehouse.calls("GetUser", at_least=-1)


async def test_fault_affects_only_the_caller_that_it_names(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    gatehouse.faults.add("*.UserService/*", code="UNAVAILABLE")
    gatehouse.faults.reset()
    name = gatehouse.faults.add("GetUser", code="ABORTED", caller="alice")
    admin = gatehouse.token("carol")
    assert await code_of(Client(gatehouse, channel).get_bob()) is Code.ABORTED
    assert await code_of(Client(gatehouse, channel, admin).get_bob()) is not Code.ABORTED
    assert gatehouse.faults.list()[name]["caller"] == "alice"
    gatehouse.faults.remove(name)
    assert gatehouse.faults.list() == {}
    assert await code_of(Client(gatehouse, channel).get_bob()) is Code.OK


async def test_fault_with_a_probability_is_repeatable(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    async def codes() -> list[grpc.StatusCode]:
        gatehouse.faults.add("*.UserService/GetUser", code="UNAVAILABLE", probability=0.5, seed=7)
        found = [await code_of(Client(gatehouse, channel).get_bob()) for _ in range(8)]
        gatehouse.faults.reset()
        return found

    first = await codes()
    assert set(first) == {Code.OK, Code.UNAVAILABLE}
    assert await codes() == first


async def test_call_needs_a_recent_login_of_a_class(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    gatehouse.faults.add("GetUser", acr="mfa", max_age=60)
    gatehouse.clock.advance(seconds=100)
    now = int(time.time() + gatehouse.clock.ahead_seconds)
    logins = [("1", now), ("mfa", now - 90), ("mfa", now - 30)]
    codes = []
    for acr, auth_time in logins:
        token = gatehouse.token("alice", claims={"acr": acr, "auth_time": auth_time})
        call = Client(gatehouse, channel, token).get_bob()
        codes.append(await code_of(call))
        challenge = dict(await call.trailing_metadata()).get("www-authenticate", "")
        assert ('acr_values="mfa", max_age=60' in str(challenge)) is (codes[-1] is not Code.OK)
    assert codes == [Code.UNAUTHENTICATED, Code.UNAUTHENTICATED, Code.OK]
    assert [call.reason for call in gatehouse.calls("GetUser")][:2] == ["ACR_MISMATCH", "LOGIN_TOO_OLD"]


async def test_call_hangs_until_its_deadline_or_is_late(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    gatehouse.faults.add("GetUser", hang=True, times=1)
    gatehouse.faults.add("GetUser", delay_seconds=0.2)
    client = Client(gatehouse, channel)
    assert await code_of(client.get_bob(timeout=0.3)) is Code.DEADLINE_EXCEEDED
    assert await code_of(client.get_bob()) is Code.OK
    assert gatehouse.calls("GetUser")[-1].duration_ms >= 200


async def test_status_has_the_details_that_were_asked_for(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    prefix = "type.googleapis.com/google.rpc."
    details = [
        {"@type": f"{prefix}RetryInfo", "retryDelay": "3s"},
        {"@type": f"{prefix}QuotaFailure", "violations": [{"subject": "alice", "description": "too many"}]},
    ]
    gatehouse.faults.add("GetUser", code="RESOURCE_EXHAUSTED", reason="SLOW_DOWN", details=details)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await Client(gatehouse, channel).get_bob()
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (8, "injected fault")
    info, retry, quota = status.details
    assert error_details_pb2.ErrorInfo.FromString(info.value).reason == "SLOW_DOWN"
    assert error_details_pb2.RetryInfo.FromString(retry.value).retry_delay.seconds == 3
    assert error_details_pb2.QuotaFailure.FromString(quota.value).violations[0].subject == "alice"


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.OK])
async def test_stream_ends_after_a_number_of_messages(
    gatehouse: Testbed, channel: grpc.aio.Channel, code: grpc.StatusCode
) -> None:
    gatehouse.faults.add("WatchUsers", after_messages=1, code=code.name)
    watch = Client(gatehouse, channel).watch()
    assert await watch.read() is not grpc.aio.EOF
    assert await watch.code() is code
    assert bool(await watch.trailing_metadata()) is (code is not Code.OK)


async def test_stream_hangs_after_a_number_of_messages(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    gatehouse.faults.add("WatchUsers", after_messages=1, hang=True)
    watch = Client(gatehouse, channel).watch()
    assert await watch.read() is not grpc.aio.EOF
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.read(), 0.3)


async def test_connection_is_closed_after_a_number_of_messages(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    gatehouse.faults.add("WatchUsers", after_messages=1, disconnect=True)
    watch = Client(gatehouse, channel).watch()
    with suppress(grpc.aio.AioRpcError):  # the message may be lost with the connection
        await watch.read()
    assert await watch.code() is Code.UNAVAILABLE
    assert not await watch.trailing_metadata()  # which only the server sends


@pytest.mark.parametrize("effect", [{"code": "UNAVAILABLE"}, {"disconnect": True}])
async def test_response_is_lost_after_the_call_was_handled(
    gatehouse: Testbed, channel: grpc.aio.Channel, effect: dict[str, Any]
) -> None:
    """A client that tries a write again must not write twice."""
    gatehouse.faults.add("CreateUser", after_messages=1, times=1, **effect)
    client = Client(gatehouse, channel)
    request = users_pb2.CreateUserRequest(
        user=users_pb2.User(email="new@example.test", display_name="New"), request_id=str(uuid.uuid4())
    )
    created = client.stub.CreateUser(request, metadata=client.metadata, timeout=10)
    assert await code_of(created) is Code.UNAVAILABLE

    async def again() -> str:
        with suppress(grpc.aio.AioRpcError):  # the connection that is being closed
            user = await client.stub.CreateUser(request, metadata=client.metadata, timeout=10)
            return str(user.user_id)
        return ""

    user_id = await eventually(again)
    listed = await client.stub.ListUsers(
        users_pb2.ListUsersRequest(filter='email = "new@example.test"'), metadata=client.metadata
    )
    assert [one.user_id for one in listed.users] == [user_id]


async def test_connection_is_closed_in_place_of_a_status(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    gatehouse.faults.add("GetUser", disconnect=True, times=1)
    client = Client(gatehouse, channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.get_bob()
    assert (caught.value.code(), len(caught.value.trailing_metadata())) == (Code.UNAVAILABLE, 0)

    # gRPC may send the next call on the connection that is being closed.
    async def succeeds() -> bool:
        return await code_of(client.get_bob()) is Code.OK

    await eventually(succeeds)

    assert {"CANCELLED", "OK"} <= {call.code for call in gatehouse.calls("GetUser", at_least=2)}


@pytest.mark.parametrize(
    ("target", "effects", "reason"),
    [
        ("GetUser", {}, "has no effect; set code, delay_seconds, hang, disconnect, acr or max_age"),
        ("GetUser", {"code": "ABORTED", "hang": True}, "set only one of code, hang and disconnect"),
        ("GetUser", {"code": "ABORTED", "max_age": 60}, "acr and max_age decide how the call ends"),
        ("GetUser", {"acr": 'a"b'}, "acr: String should match pattern"),
        ("GetUser", {"delay_seconds": 1, "after_messages": 1}, "after_messages needs code, hang or disc"),
        ("GetUser", {"code": "ABORTED", "details": [{"@type": "x"}]}, "@type is not .* one of BadRequest"),
        (
            "GetUser",
            {"code": "ABORTED", "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "a": 1}]},
            "details: not the fields of google.rpc.RetryInfo",
        ),
        ("GetUser", {"code": "OK"}, "code OK needs after_messages"),
        ("GetUser", {"code": "OK", "after_messages": 1}, "GetUser: has one response; use after_messages 1"),
        ("GetUser", {"hang": True, "after_messages": 2}, "GetUser: has one response; use after_messages 1"),
        ("GetUser", {"code": "TEAPOT"}, "code: Input should be"),
        ("GetUsr", {"code": "INTERNAL"}, "GetUsr: the services have no such RPC"),
        ("/" + GET_USER, {"code": "INTERNAL"}, "the services have no such RPC"),
        ("issuer/nothing", {"status": 500}, "unknown endpoint; use issuer/ and one of"),
        ("issuer/token", {}, "has no effect; set status"),
        ("database", {"state": "odd"}, "state: Input should be 'down' or 'hanging'"),
    ],
)
def test_invalid_fault_is_an_error_that_says_why(
    gatehouse: Testbed, target: str, effects: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        gatehouse.faults.add(target, **effects)
    assert gatehouse.faults.list() == {}


def test_removing_an_unknown_fault_is_an_error_that_says_why(gatehouse: Testbed) -> None:
    with pytest.raises(ValueError, match="fault-0: no such fault"):
        gatehouse.faults.remove("fault-0")
    for name in ("", "../tokens"):
        with pytest.raises(ValueError, match="Not Found"):
            gatehouse.faults.remove(name)


def test_unknown_names_are_never_just_without_records(gatehouse: Testbed) -> None:
    with pytest.raises(ValueError, match="GetUsr: the services have no such RPC"):
        gatehouse.calls("GetUsr")
    with pytest.raises(ValueError, match="endpoint: Input should be 'discovery'"):
        gatehouse.issuer_requests("keys")


async def test_changes_at_once_wait_for_each_other(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    async with httpx.AsyncClient(base_url=gatehouse.control_url, trust_env=False, timeout=60) as http:

        async def together(*requests: Awaitable[httpx.Response]) -> list[int]:
            return [response.status_code for response in await asyncio.gather(*requests)]

        assert await together(*(http.post("/reset") for _ in range(5))) == [204] * 5
        fault = {"target": "database", "state": "down"}
        codes = await together(*(http.post("/faults", json=fault) for _ in range(3)))
        assert sorted(codes) == [201, 400, 400]
        codes = await together(http.post("/reset"), http.delete("/faults"), http.post("/reset"))
        assert codes == [204] * 3
    client = Client(gatehouse, channel)

    async def succeeds() -> bool:
        return await code_of(client.get_bob()) is Code.OK

    await eventually(succeeds)


async def test_request_that_is_no_object_is_refused(gatehouse: Testbed) -> None:
    async with httpx.AsyncClient(base_url=gatehouse.control_url, trust_env=False) as http:
        paths = ("/faults", "/tokens", "/clock")
        assert [(await http.post(path, json=[])).status_code for path in paths] == [422] * 3
        form = await http.post("/tokens", data={"user": "alice"})
        assert (form.status_code, "content-type: application/json" in form.text) == (415, True)


async def test_misspelled_members_and_parameters_are_refused(gatehouse: Testbed) -> None:
    async with httpx.AsyncClient(base_url=gatehouse.control_url, trust_env=False) as http:
        for path, methods in (await http.get("/openapi.json")).json()["paths"].items():
            if "post" in methods and path != "/reset":
                answer = await http.post(path, json={"no_such_member": False})
                assert (answer.status_code, "no_such_member" in answer.text) == (422, True), path
            if "get" in methods:
                answer = await http.get(path, params={"no_such_parameter": ""})
                assert (answer.status_code, "no_such_parameter: unknown" in answer.text) == (400, True), path


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/faults", r'{"target": "issuer/token", "response": {"error": "\ud800"}}', 422),
        ("/faults", r'{"target": "GetUser", "code": "ABORTED", "message": "\ud800"}', 422),
        ("/faults", r'{"target": "\ud800", "code": "ABORTED"}', 422),
        ("/faults", r'{"target": "GetUser", "\ud800": 1}', 422),
        ("/tokens", r'{"user": "\ud800"}', 404),
        ("/tokens/revoke", r'{"token": "\ud800"}', 400),
        ("/tokens", r'{"user": "alice", "claims": {"\ud800": 1}}', 200),
    ],
)
async def test_text_that_is_not_unicode_breaks_nothing(
    gatehouse: Testbed, path: str, body: str, status: int
) -> None:
    async with httpx.AsyncClient(base_url=gatehouse.control_url, trust_env=False) as http:
        response = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert "Traceback" not in response.text
    assert gatehouse.faults.list() == {}


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ({"status": 500}, Code.UNAVAILABLE),
        ({"status": 503, "retry_after": 1}, Code.UNAVAILABLE),
        ({"html": True}, Code.UNAVAILABLE),
        ({"refuse": True}, Code.UNAVAILABLE),
        ({"response": {"active": False}}, Code.UNAUTHENTICATED),
        ({"delay_seconds": 0.1}, Code.OK),
    ],
)
async def test_service_meets_a_fault_of_the_issuer(
    gatehouse: Testbed, channel: grpc.aio.Channel, effects: dict[str, Any], expected: grpc.StatusCode
) -> None:
    gatehouse.faults.add("issuer/introspection", **effects)
    assert await code_of(Client(gatehouse, channel).get_bob()) is expected
    gatehouse.reset()
    assert await code_of(Client(gatehouse, channel).get_bob()) is Code.OK


def test_client_meets_a_fault_of_the_issuer(gatehouse: Testbed) -> None:
    gatehouse.faults.add("issuer/discovery", response={"issuer": "https://other.example"})
    gatehouse.faults.add("issuer/jwks", response={"keys": []})
    gatehouse.faults.add("issuer/token", status=503, retry_after=7)
    base = f"{gatehouse.issuer}/protocol/openid-connect"
    with httpx.Client(trust_env=False, timeout=0.5) as http:
        document = http.get(f"{gatehouse.issuer}/.well-known/openid-configuration").json()
        assert (document["issuer"], document["jwks_uri"]) == ("https://other.example", f"{base}/certs")
        assert http.get(document["jwks_uri"]).json() == {"keys": []}
        response = http.post(f"{base}/token", data={"grant_type": "client_credentials"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        gatehouse.faults.reset()
        assert len(http.get(document["jwks_uri"]).json()["keys"]) == 2
        gatehouse.faults.add("issuer/jwks", refuse=True, times=1)
        with pytest.raises(httpx.TransportError, match="disconnected"):
            http.get(document["jwks_uri"])
        gatehouse.faults.add("issuer/*", response={"a": 1}, times=1)
        page = http.get(f"{base}/auth")
        assert page.headers["content-type"].startswith("text/html")
        assert "<html" in page.text
        gatehouse.faults.reset()
        gatehouse.faults.add("issuer/*", hang=True)
        with pytest.raises(httpx.ReadTimeout):
            http.get(document["jwks_uri"])
    assert [(r.endpoint, r.status) for r in gatehouse.issuer_requests()] == [
        ("discovery", 200),
        ("jwks", 200),
        ("token", 503),
        ("jwks", 200),
        ("jwks", None),
        ("authorization", 400),
        ("jwks", None),
    ]


PROTOCOL = "/realms/gatehouse/protocol/openid-connect"
PATHS = {
    "discovery": "/realms/gatehouse/.well-known/openid-configuration",
    "jwks": f"{PROTOCOL}/certs",
    "authorization": f"{PROTOCOL}/auth",
    "login": "/realms/gatehouse/login-actions/authenticate",
    "token": f"{PROTOCOL}/token",
    "introspection": f"{PROTOCOL}/token/introspect",
    "revocation": f"{PROTOCOL}/revoke",
    "userinfo": f"{PROTOCOL}/userinfo",
    "logout": f"{PROTOCOL}/logout/logout-confirm",
    "device": f"{PROTOCOL}/auth/device",
    "admin": "/admin/realms/gatehouse/users",
    "other": "/realms/gatehouse",
}


def test_each_endpoint_of_the_issuer_fails_alone(gatehouse_issuer: Testbed) -> None:
    base = gatehouse_issuer.issuer.removesuffix("/realms/gatehouse")
    with httpx.Client(trust_env=False, base_url=base) as http:
        for endpoint in ENDPOINTS:
            fault = gatehouse_issuer.faults.add(f"issuer/{endpoint}", status=599)
            failed = [name for name, path in PATHS.items() if http.get(path).status_code == 599]
            assert failed == [endpoint]
            gatehouse_issuer.faults.remove(fault)
    seen = gatehouse_issuer.issuer_requests()[: len(PATHS)]
    assert [request.endpoint for request in seen] == [*PATHS]


async def test_revoked_token_is_refused_on_the_next_call(
    gatehouse: Testbed, channel: grpc.aio.Channel
) -> None:
    token = gatehouse.token("alice")
    assert await code_of(Client(gatehouse, channel, token).get_bob()) is Code.OK
    gatehouse.revoke(token)
    assert await code_of(Client(gatehouse, channel, token).get_bob()) is Code.UNAUTHENTICATED
    gatehouse.revoke("unknown")


async def test_reset_restores_what_a_test_has_changed(gatehouse: Testbed, channel: grpc.aio.Channel) -> None:
    token = gatehouse.token("alice")
    stub = users_pb2_grpc.UserServiceStub(channel)
    request = users_pb2.DeleteUserRequest(user_id=gatehouse.users["bob"])
    await stub.DeleteUser(request, metadata=authorization(token))
    assert await code_of(Client(gatehouse, channel, token).get_bob()) is Code.NOT_FOUND
    gatehouse.clock.advance(days=1)
    gatehouse.faults.add("GetUser", code="INTERNAL")
    gatehouse.reset()
    assert (gatehouse.faults.list(), gatehouse.clock.ahead_seconds, gatehouse.calls()) == ({}, 0, [])
    assert await code_of(Client(gatehouse, channel, token).get_bob()) is Code.UNAUTHENTICATED
    assert await code_of(Client(gatehouse, channel).get_bob()) is Code.OK


@pytest.mark.parametrize(("state", "expected"), [("down", "UNAVAILABLE"), ("hanging", "DEADLINE_EXCEEDED")])
async def test_database_fails_and_recovers(
    gatehouse: Testbed, channel: grpc.aio.Channel, state: str, expected: str
) -> None:
    client = Client(gatehouse, channel)
    name = gatehouse.faults.add("database", state=state)
    with pytest.raises(ValueError, match="another fault of the database is in effect"):
        gatehouse.faults.add("database")
    assert (await code_of(client.get_bob(timeout=1))).name == expected
    gatehouse.faults.remove(name)

    async def succeeds() -> bool:
        return await code_of(client.get_bob()) is Code.OK

    await eventually(succeeds)


async def test_web_page_cannot_control_the_test_bed(gatehouse: Testbed) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(gatehouse.control_url, headers={"host": "attacker.example"})
        assert (response.status_code, "ca_file" in response.text) == (400, False)
        gatehouse.clock.advance(seconds=7)
        origin = {"origin": "https://attacker.example"}
        response = await http.post(f"{gatehouse.control_url}/reset", headers=origin)
    assert (response.status_code, gatehouse.clock.ahead_seconds) == (403, 7)


def test_two_test_beds_run_at_once_and_end_with_their_owner(gatehouse: Testbed, tmp_path: Path) -> None:
    """The owner is killed; the test bed of this session is not affected."""
    file = tmp_path / "testbed.json"
    script = f"""
import time
from gatehouse_testbed.bed.client import run_testbed
with run_testbed("--ready-file", {str(file)!r}):
    print("ready", flush=True)
    time.sleep(600)
"""
    with Command[str]([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        other = json.loads(file.read_text())
        assert set(other["targets"].values()).isdisjoint(gatehouse.targets.values())
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) >= 3
        owner.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == [], [process.cmdline() for process in alive]
    assert not Path(other["ca_file"]).exists()
    assert gatehouse.faults.list() == {}


def test_test_bed_that_does_not_start_is_an_error_of_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(TestbedError, match=r"does not start: .*missing.json: cannot be read") as caught,
        run_testbed("--realm", str(tmp_path / "missing.json")),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_test_bed_whose_port_is_taken_is_an_error_of_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        with (
            pytest.raises(TestbedError, match=f"does not start: 127.0.0.1:{port}: cannot listen") as caught,
            run_testbed("--issuer-port", port),
        ):
            pass
    assert "\n" not in str(caught.value)


def test_test_bed_ends_while_it_starts(tmp_path: Path) -> None:
    """No file says that it is ready: neither that of an earlier run nor its own."""
    file = tmp_path / "testbed.json"
    file.write_text("{}")
    command = [sys.executable, "-m", "gatehouse", "testbed", "--ready-file", str(file)]
    with Command[bytes](command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:

        async def has_begun() -> bool:
            return not file.exists()

        asyncio.run(eventually(has_begun))
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output, [*tmp_path.iterdir()]) == (0, b"", [])


def test_test_bed_ends_with_a_socket_as_standard_input() -> None:
    """Node gives a child process a socket where other languages give it a pipe."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-m", "gatehouse", "testbed", "--issuer-only"]
    with ours, Command[bytes](command, stdin=its.fileno(), stdout=subprocess.PIPE) as process:
        its.close()
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["issuer"]
        ours.close()
        assert process.wait(60) == 0


def test_test_bed_runs_with_closed_standard_input() -> None:
    command = ["sh", "-c", 'exec "$0" -m gatehouse testbed --issuer-only <&-', sys.executable]
    with Command[bytes](command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        description = json.loads(process.stdout.readline())
        assert httpx.get(description["control_url"], trust_env=False).is_success
        process.terminate()
        assert process.wait(60) == 0


def test_ready_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(TestbedError, match=rf"does not start: {tmp_path}/a/b: no such file or directory"),
        run_testbed("--issuer-only", "--ready-file", f"{tmp_path}/a/b"),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


def test_test_bed_that_has_ended_is_an_error_of_one_line(tmp_path: Path) -> None:
    file = tmp_path / "testbed.json"
    with run_testbed("--issuer-only", "--ready-file", str(file)):
        testbed = Testbed(json.loads(file.read_text()))
        assert testbed.calls() == []
    with pytest.raises(TestbedError, match=r"does not answer \(\w+\); see whether it still runs$"):
        testbed.reset()
    testbed.close()


def test_issuer_without_services(gatehouse_issuer: Testbed) -> None:
    testbed = gatehouse_issuer
    assert (testbed.targets, testbed.users) == ({}, {})
    with pytest.raises(ValueError, match="only an issuer, which has no certificate"):
        _ = testbed.ca_file
    with httpx.Client(trust_env=False, auth=("gatehouse-api", testbed.clients["gatehouse-api"])) as http:

        def is_active(token: str) -> bool:
            url = f"{testbed.issuer}/protocol/openid-connect/token/introspect"
            return bool(http.post(url, data={"token": token}).json()["active"])

        token = testbed.token("alice", lifetime_seconds=60)
        assert is_active(token)
        testbed.clock.advance(seconds=61)
        assert not is_active(token)
        testbed.reset()
        testbed.faults.add("issuer/introspection", response={"active": True}, times=1)
        assert is_active("anything")
        assert not is_active("anything")
    for target in ("GetUser", "database"):
        with pytest.raises(ValueError, match=f"{target}: this test bed is only an issuer"):
            testbed.faults.add(target, **({"code": "ABORTED"} if target == "GetUser" else {}))
    assert testbed.calls() == []
