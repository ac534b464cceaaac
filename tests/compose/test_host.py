"""The stack from the host: with `gatehouse` and with grpcurl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import grpc
import pytest

from gatehouse.app.policy import policy_rows
from gatehouse.client.issuer import decode, open_issuer_client
from gatehouse.client.profile import Profile
from tests.support.compose import Host, compose, port_of, until

UNREACHABLE = 3


async def call(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `gatehouse call` until the issuer answers: on a busy machine it may be too slow."""
    return await until(
        lambda: asyncio.to_thread(host.gatehouse, "call", *arguments), lambda d: d.returncode != UNREACHABLE
    )


async def test_gatehouse_calls_services_with_the_copied_profile(host: Host) -> None:
    allowed = await call(host, "users", "ListUsers", "--as", "bob")
    assert allowed.returncode == 0
    assert allowed.stderr.startswith("trace: ")
    denied = await call(host, "users", "DeleteUser", "--as", "bob")
    assert denied.returncode == 1
    assert "\ngatehouse: PERMISSION_DENIED: " in denied.stderr
    anonymous = await call(host, "users", "ListUsers")
    assert anonymous.returncode == 1
    assert "\ngatehouse: UNAUTHENTICATED: " in anonymous.stderr
    for row in policy_rows():
        if row.rule.public:
            assert (await call(host, row.service, row.method)).returncode == 0


def test_gatehouse_obtains_introspects_and_revokes_a_token(host: Host) -> None:
    token = host.gatehouse("token", "obtain", "--client", "gatehouse-worker").stdout.strip()
    active = host.gatehouse("token", "introspect", token)
    assert (active.returncode, json.loads(active.stdout)["client_id"]) == (0, "gatehouse-worker")
    assert host.gatehouse("token", "revoke", token, "--client", "gatehouse-worker").returncode == 0
    assert host.gatehouse("token", "introspect", token).returncode == 1


async def test_tokens_from_inside_and_outside_have_the_same_issuer_and_access(
    host: Host,
) -> None:
    inside = Profile.model_validate_json((host.folder / "inside.json").read_bytes())
    assert inside.discovery_url != host.profile.discovery_url
    made = compose(
        "run", "--rm", "--no-deps", "--no-TTY", "tour", "token", "obtain", "--client", "gatehouse-worker"
    )
    tokens = [made.stdout.strip(), await host.client_token(scope="")]
    issuers = {decode(token)["claims"]["iss"] for token in tokens}
    assert issuers == {f"http://localhost:{port_of('keycloak', 8080)}/realms/gatehouse"}
    codes = {await host.code("users", "GetCurrentUser", token) for token in tokens}
    assert codes == {grpc.StatusCode.OK}
    async with open_issuer_client(host.profile) as issuer:
        assert {(await issuer.introspect(token))["active"] for token in tokens} == {True}


def test_token_can_be_revoked_from_inside(host: Host) -> None:
    token = host.gatehouse("token", "obtain", "--client", "gatehouse-worker").stdout.strip()
    tour = ("run", "--rm", "--no-deps", "--no-TTY", "tour")
    compose(*tour, "token", "revoke", token, "--client", "gatehouse-worker")
    assert compose(*tour, "token", "introspect", token, check=False).returncode == 1


def call_with_grpcurl(
    grpcurl: str, host: Host, inside: int, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run grpcurl; options in `arguments` come before the address."""
    options = [one for one in arguments if not one.startswith("gatehouse.") and one != "list"]
    rest = [one for one in arguments if one not in options]
    address = f"localhost:{port_of('entry', inside)}"
    command = [grpcurl, "-cacert", str(host.ca_file), "-max-time", "20", *options, address, *rest]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_grpcurl_lists_services_by_reflection(grpcurl: str, host: Host) -> None:
    found = call_with_grpcurl(grpcurl, host, 50051, "list")
    assert "gatehouse.users.v1.UserService" in found.stdout.split(), found.stderr


def test_grpcurl_describes_a_method_with_its_access_rule(grpcurl: str, host: Host, tmp_path: Path) -> None:
    address, method = f"localhost:{port_of('entry', 50051)}", "gatehouse.users.v1.UserService.ListUsers"
    command = [grpcurl, "-cacert", str(host.ca_file), "-max-time", "20", address, "describe", method]
    by_reflection = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    protoset = tmp_path / "gatehouse.protoset"
    host.gatehouse("protos", "--output", str(protoset))
    command = [grpcurl, "-protoset", str(protoset), "describe", method]
    by_files = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for described in (by_reflection, by_files):
        assert 'option (.gatehouse.authz.v1.access) = { scopes: [ "read:users" ] };' in described


async def test_grpcurl_calls_with_a_token(grpcurl: str, host: Host) -> None:
    token = await host.user_token("alice")
    sent = ("-H", f"authorization: Bearer {token}")
    count = call_with_grpcurl(grpcurl, host, 50051, *sent, "gatehouse.users.v1.UserService/CountUsers")
    assert count.returncode == 0, count.stderr
    assert "snapshotTime" in json.loads(count.stdout)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ((), "Unauthenticated"),
        (("-H", "authorization: Bearer garbage"), "Unauthenticated"),
        (("-H", "authorization: Basic YWxpY2U6YWxpY2U="), "Unauthenticated"),
    ],
)
def test_grpcurl_is_unauthenticated_without_a_valid_token(
    header: tuple[str, ...], code: str, grpcurl: str, host: Host
) -> None:
    refused = call_with_grpcurl(grpcurl, host, 50051, *header, "gatehouse.users.v1.UserService/ListUsers")
    assert refused.returncode != 0
    assert f"Code: {code}" in refused.stderr


async def test_grpcurl_as_bob_shows_the_missing_scope(grpcurl: str, host: Host) -> None:
    token = await host.user_token("bob")
    sent = ("-H", f"authorization: Bearer {token}")
    refused = call_with_grpcurl(grpcurl, host, 50051, *sent, "gatehouse.users.v1.UserService/DeleteUser")
    assert "Code: PermissionDenied" in refused.stderr
    assert "INSUFFICIENT_SCOPE" in refused.stderr


def test_client_that_does_not_trust_the_authority_cannot_call(grpcurl: str, host: Host) -> None:
    address = f"localhost:{port_of('entry', 50051)}"
    done = subprocess.run(
        [grpcurl, "-max-time", "20", address, "list"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "certificate" in done.stderr
    plain = subprocess.run(
        [grpcurl, "-plaintext", "-max-time", "5", address, "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert plain.returncode != 0
