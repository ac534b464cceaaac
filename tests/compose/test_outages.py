"""Outages of one container: the codes that callers get, and the recovery without intervention."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import httpx
import pytest

from gatehouse.app.policy import policy_rows
from gatehouse.client.health import check_health
from tests.support.compose import OURS, Host, compose, until

_CODE = grpc.StatusCode
# Default of `revocation_budget_seconds`: how long an introspection response is cached.
BUDGET_SECONDS = 30.0
PUBLIC = {row.service: row.method for row in policy_rows() if row.rule.public}
# An RPC of each service that changes nothing.
LISTS = {row.service: row.method for row in policy_rows() if row.method.startswith("List")}
RPCS = LISTS | PUBLIC


@contextmanager
def killed(service: str) -> Iterator[None]:
    """Kill a service, and start it again afterwards."""
    compose("kill", service)
    try:
        yield
    finally:
        compose("start", service)


async def health(host: Host, name: str = "") -> dict[str, str]:
    found = await asyncio.to_thread(check_health, host.profile, OURS, name, 5.0)
    return {service: health.status for service, health in found.items()}


async def all_serve(host: Host) -> None:
    await until(lambda: health(host), lambda found: set(found.values()) == {"SERVING"})


async def test_while_keycloak_is_down_cached_tokens_work_and_others_are_unavailable(host: Host) -> None:
    known, fresh = await host.client_token(), await host.client_token()
    # <part admin>
    alice = await host.user_token("alice")
    # </part admin>
    introspected = time.monotonic()
    assert await host.code("users", "CountUsers", known) is _CODE.OK
    with killed("keycloak"):
        code = await host.code("users", "CountUsers", known)
        assert code is _CODE.OK or time.monotonic() - introspected > BUDGET_SECONDS
        unknown = await host.call("users", "CountUsers", token=fresh)
        assert (unknown.code, unknown.reason) == (_CODE.UNAVAILABLE, "ISSUER_UNAVAILABLE")
        # <part admin>
        user = {"user_id": "01890a5d-ac96-774b-bcce-b302099a8057", "revoke_roles": ["x"]}
        online = await host.call("admin", "ManageRoles", user, token=alice)
        assert online.code is _CODE.UNAVAILABLE
        # </part admin>
        assert await host.code("users", "CountUsers") is _CODE.UNAUTHENTICATED
        for service, method in PUBLIC.items():
            assert await host.code(service, method) is _CODE.OK
        assert set((await health(host)).values()) == {"SERVING"}
        with pytest.raises(httpx.TransportError):
            await host.client_token()
        done = host.gatehouse("call", "users", "ListUsers", "--as", "alice")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        late = await until(
            lambda: host.code("users", "CountUsers", known), lambda found: found is not _CODE.OK, 90
        )
        assert late is _CODE.UNAVAILABLE
        assert time.monotonic() - introspected > BUDGET_SECONDS - 5
    # Keycloak keeps its keys, so older tokens are valid again.
    for token in (known, fresh):
        await until(partial(host.code, "users", "CountUsers", token), lambda found: found is _CODE.OK)

    assert await host.code("users", "CountUsers", await host.client_token()) is _CODE.OK


async def test_while_postgres_is_down_services_are_unavailable_and_denials_go_on(host: Host) -> None:
    alice, bob = await host.user_token("alice"), await host.user_token("bob")
    assert await host.code("users", "CountUsers", alice) is _CODE.OK
    with killed("postgres"):
        await until(lambda: health(host), lambda found: set(found.values()) == {"NOT_SERVING"})
        assert set((await health(host, "liveness")).values()) == {"SERVING"}
        assert host.gatehouse("healthcheck", "users").returncode == 1
        for service, method in RPCS.items():
            outcome = await host.call(service, method, token=alice)
            assert (outcome.code, outcome.reason) == (_CODE.UNAVAILABLE, "DATABASE_UNAVAILABLE"), service
        assert await host.code("users", "CountUsers") is _CODE.UNAUTHENTICATED
        assert await host.code("users", "DeleteUser", bob) is _CODE.PERMISSION_DENIED
    await all_serve(host)
    for service, method in RPCS.items():
        assert await host.code(service, method, alice) is _CODE.OK, service


@pytest.mark.parametrize("service", OURS)
async def test_while_one_service_is_down_the_others_go_on(service: str, host: Host) -> None:
    alice = await host.user_token("alice")
    with killed(service):
        for other, method in RPCS.items():
            expected = _CODE.UNAVAILABLE if other == service else _CODE.OK
            assert await host.code(other, method, alice) is expected, other
        done = host.gatehouse("healthcheck", service)
        assert done.returncode == 3
        assert done.stderr.startswith(f"gatehouse: {service}: UNREACHABLE (")
        assert "check that it runs at this address" in done.stderr
    await all_serve(host)
    for name, method in RPCS.items():
        assert await host.code(name, method, alice) is _CODE.OK, name


# <part admin>
async def test_while_users_is_down_admin_names_it_and_answers_the_rest(host: Host) -> None:
    alice = await host.user_token("alice")
    with killed("users"):
        outcome = await host.call("admin", "GetStats", token=alice)
        assert (outcome.code, outcome.reason) == (_CODE.UNAVAILABLE, "USER_SERVICE_UNAVAILABLE")
        assert await host.code("admin", "ListAuditEvents", alice) is _CODE.OK
    await all_serve(host)
    await until(lambda: host.code("admin", "GetStats", alice), lambda found: found is _CODE.OK)


# </part admin>


async def test_stopped_service_exits_with_success(host: Host) -> None:
    try:
        compose("stop", "admin")
        listed = compose("ps", "--all", "--format", "{{.ExitCode}}", "admin").stdout.strip()
        assert listed == "0"
    finally:
        compose("start", "admin")
    await all_serve(host)
