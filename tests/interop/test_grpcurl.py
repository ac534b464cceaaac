"""What grpcurl shows: reflection, every RPC type, denials with their reason, deadlines, health."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import Any

import pytest

from gatehouse.app.services import SERVICES
from tests.support.eventually import eventually
from tests.support.system import System

USERS = "gatehouse.users.v1.UserService"


class Grpcurl:
    """Runs grpcurl on UserService."""

    def __init__(self, program: str, system: System) -> None:
        self._program = program
        self._system = system

    def __call__(
        self,
        *arguments: str,
        requests: list[dict[str, Any]] | None = None,
        token: str | None = None,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        header = ("-H", f"authorization: Bearer {token}") if token else ()
        data = () if requests is None else ("-d", "@")
        address = f"localhost:{self._system.ports['users']}"
        trusted = ("-cacert", str(self._system.ca_file), "-max-time", "60")
        return subprocess.run(
            [self._program, *trusted, *options, *header, *data, address, *arguments],
            input="\n".join(map(json.dumps, requests or ())),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def run(grpcurl: str, system: System) -> Grpcurl:
    return Grpcurl(grpcurl, system)


@pytest.fixture(scope="module")
def token(system: System) -> str:
    """An access token that may read and write users."""
    return system.client_token("gatehouse-worker", "read:users write:users")


def documents(text: str) -> list[Any]:
    """Return the JSON documents of an output."""
    found, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


def test_reflection_lists_and_describes_the_service(run: Grpcurl) -> None:
    assert {USERS, "grpc.health.v1.Health"} <= set(run("list").stdout.split())
    methods = {method.full_name for method in SERVICES["users"].descriptor.methods}
    assert set(run("list", USERS).stdout.split()) == methods
    described = run("describe", f"{USERS}.WatchUsers").stdout
    assert "returns ( stream .gatehouse.users.v1.WatchUsersResponse )" in described
    assert 'scopes: [ "read:users" ]' in described


def test_every_rpc_type(run: Grpcurl, token: str) -> None:
    email = f"{uuid.uuid4()}@example.test"
    rows = [{"row_number": 1, "email": email, "display_name": "Erin"}, {"row_number": 2, "email": email}]
    imported = run(f"{USERS}/ImportUsers", requests=rows, token=token)
    assert json.loads(imported.stdout)["createdCount"] == "1", imported.stderr
    listed = run(f"{USERS}/ListUsers", requests=[{"filter": f'email = "{email}"'}], token=token)
    (user,) = json.loads(listed.stdout)["users"]
    ids = [{"user_id": user["userId"]}, {"user_id": str(uuid.uuid4())}]
    looked_up = documents(run(f"{USERS}/LookupUsers", requests=ids, token=token).stdout)
    assert looked_up[0]["user"] == user
    assert looked_up[1]["error"]["code"] == 5
    watched = run(f"{USERS}/WatchUsers", token=token, options=("-max-time", "2"))
    assert list(documents(watched.stdout)[0]) == ["resumeToken"]
    assert "Code: DeadlineExceeded" in watched.stderr


def test_denied_call_shows_reason_and_challenge(run: Grpcurl, system: System, token: str) -> None:
    reader = system.client_token("gatehouse-worker", "read:users")
    denied = run(f"{USERS}/ImportUsers", requests=[], token=reader, options=("-v",))
    assert denied.returncode == 64 + 7  # PERMISSION_DENIED
    assert "Code: PermissionDenied" in denied.stderr
    assert '"reason": "INSUFFICIENT_SCOPE"' in denied.stderr
    assert 'www-authenticate: Bearer realm="gatehouse", error="insufficient_scope"' in denied.stdout


async def test_call_without_a_valid_token_is_challenged(run: Grpcurl, system: System) -> None:
    brief = system.client_token("gatehouse-brief", "read:users")
    await eventually(lambda: not system.introspect(brief))
    for token, reason in ((None, "TOKEN_MISSING"), (brief, "TOKEN_EXPIRED")):
        refused = run(f"{USERS}/ListUsers", token=token, options=("-v",))
        assert "Code: Unauthenticated" in refused.stderr
        assert f'"reason": "{reason}"' in refused.stderr
        assert 'www-authenticate: Bearer realm="gatehouse"' in refused.stdout


def test_invalid_request_names_the_field(run: Grpcurl, token: str) -> None:
    refused = run(f"{USERS}/GetUser", requests=[{"user_id": "1"}], token=token)
    assert "Code: InvalidArgument" in refused.stderr
    assert '"field": "user_id"' in refused.stderr


def test_health_needs_no_token(run: Grpcurl) -> None:
    health = run("grpc.health.v1.Health/Check", requests=[{"service": USERS}])
    assert json.loads(health.stdout) == {"status": "SERVING"}
