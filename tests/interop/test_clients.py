"""What clients in Go and Node see: every RPC type, denials with their reason, deadlines, health."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from grpc import StatusCode

from tests.interop.foreign import Call, ForeignClient, Outcome
from tests.support.eventually import eventually
from tests.support.system import CLIENT_SECRETS, System

# One RPC of each type, with the scope that it requires.
RPCS = {
    "ListUsers": "read:users",
    "WatchUsers": "read:users",
    "LookupUsers": "read:users",
    "ImportUsers": "write:users",
}


def client(scope: str, name: str = "gatehouse-worker") -> dict[str, str]:
    """Return a client for the OAuth library of the language."""
    return {"id": name, "secret": CLIENT_SECRETS[name], "scope": scope}


READER = client("read:users")
EDITOR = client("read:users write:users")


class Users:
    """Calls UserService with a foreign client."""

    def __init__(self, target: str, foreign: ForeignClient) -> None:
        self._target = target
        self._foreign = foreign

    def call(self, rpc: str, *requests: dict[str, Any], **more: Any) -> Outcome:
        method = f"/gatehouse.users.v1.UserService/{rpc}"
        return self._foreign.call(Call(self._target, method, requests, **more))

    def create(self, **more: Any) -> Any:
        """Create a user and return it."""
        made = self.call("CreateUser", {"user": new_user()}, client=EDITOR, **more)
        assert made.code is StatusCode.OK, made
        return made.responses[0]


@pytest.fixture
def users(system: System, foreign: ForeignClient) -> Users:
    return Users(f"localhost:{system.ports['users']}", foreign)


def new_user() -> dict[str, str]:
    return {"email": f"{uuid.uuid4()}@example.test", "display_name": "Erin"}


def challenge(scope: str, error: str, description: str) -> str:
    return f'Bearer realm="gatehouse", error="{error}", error_description="{description}", scope="{scope}"'


def test_unary_call(users: Users) -> None:
    created = users.create()
    got = users.call("GetUser", {"user_id": created["user_id"]}, client=READER)
    assert (got.code, got.responses, got.challenge) == (StatusCode.OK, [created], [])


def test_compressed_request(users: Users) -> None:
    assert users.create(gzip=True)["display_name"] == "Erin"


def test_server_stream_resumes_where_it_ended(users: Users) -> None:
    (first,) = users.call("WatchUsers", {}, client=READER, limit=1).responses
    created = users.create()
    watched = users.call("WatchUsers", {"resume_token": first["resume_token"]}, client=READER, limit=2)
    assert watched.code is StatusCode.OK
    assert watched.responses[1]["change"] == "USER_CHANGE_CREATED"
    assert watched.responses[1]["user"] == created


def test_client_stream(users: Users) -> None:
    rows = [{"row_number": number, **new_user()} for number in (1, 2, 3)]
    rows[2]["email"] = rows[0]["email"]
    imported = users.call("ImportUsers", *rows, client=EDITOR)
    assert imported.code is StatusCode.OK
    (counts,) = imported.responses
    assert (counts["row_count"], counts["created_count"], counts["failed_count"]) == ("3", "2", "1")


def test_bidirectional_stream_responds_to_each_request(users: Users) -> None:
    created = users.create()
    requests = [{"user_id": created["user_id"]}, {"user_id": str(uuid.uuid4())}]
    found = users.call("LookupUsers", *requests, client=READER)
    assert found.code is StatusCode.OK
    assert found.responses[0]["user"] == created
    assert found.responses[1]["error"] == {"code": 5, "message": "user not found"}


@pytest.mark.parametrize("rpc", RPCS)
def test_denied_call_names_the_missing_scope(users: Users, rpc: str) -> None:
    other = client("write:users" if RPCS[rpc] == "read:users" else "read:users")
    denied = users.call(rpc, {}, client=other)
    info = denied.details["google.rpc.ErrorInfo"]
    assert (denied.code, info["reason"], info["domain"]) == (
        StatusCode.PERMISSION_DENIED,
        "INSUFFICIENT_SCOPE",
        "gatehouse",
    )
    assert denied.challenge == [challenge(RPCS[rpc], "insufficient_scope", "insufficient scope")]
    assert denied.responses == []


@pytest.mark.parametrize("rpc", RPCS)
async def test_call_without_a_valid_token_is_challenged(system: System, users: Users, rpc: str) -> None:
    brief = system.client_token("gatehouse-brief", RPCS["ListUsers"])
    await eventually(lambda: not system.introspect(brief))
    outcomes = [users.call(rpc, {}), users.call(rpc, {}, token=brief)]
    assert {outcome.code for outcome in outcomes} == {StatusCode.UNAUTHENTICATED}
    assert [outcome.details["google.rpc.ErrorInfo"]["reason"] for outcome in outcomes] == [
        "TOKEN_MISSING",
        "TOKEN_EXPIRED",
    ]
    assert [outcome.challenge for outcome in outcomes] == [
        [f'Bearer realm="gatehouse", scope="{RPCS[rpc]}"'],
        [challenge(RPCS[rpc], "invalid_token", "token expired")],
    ]


def test_stream_ends_when_its_token_expires(users: Users) -> None:
    ended = users.call("WatchUsers", {}, client=client("read:users", "gatehouse-brief"))
    assert ended.code is StatusCode.UNAUTHENTICATED
    assert ended.details["google.rpc.ErrorInfo"]["reason"] == "TOKEN_EXPIRED"


def test_invalid_request_names_the_field(users: Users) -> None:
    user = new_user() | {"email": "not an email"}
    refused = users.call("CreateUser", {"user": user}, client=EDITOR)
    assert refused.code is StatusCode.INVALID_ARGUMENT
    (violation,) = refused.details["google.rpc.BadRequest"]["field_violations"]
    assert violation["field"] == "user.email"


def test_deadline_ends_streams(users: Users) -> None:
    watched = users.call("WatchUsers", {}, client=READER, timeout=1.0)
    idle = users.call("LookupUsers", client=READER, timeout=1.0, keeps_open=True)
    assert (watched.code, idle.code) == (StatusCode.DEADLINE_EXCEEDED,) * 2


def test_health_needs_no_token(system: System, foreign: ForeignClient) -> None:
    for service, port in system.ports.items():
        health = foreign.call(Call(f"localhost:{port}", "/grpc.health.v1.Health/Check"))
        assert (health.code, health.responses) == (StatusCode.OK, [{"status": "SERVING"}]), service
