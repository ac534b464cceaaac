"""One part is killed and comes back: what callers are told meanwhile, and that nothing else need be done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import httpx
import pytest

from gatehouse.client.health import check_health
from tests.support.compose import OURS, Host, compose, until

_CODE = grpc.StatusCode
# How long an answer of Keycloak serves again: `revocation_budget_seconds` as it is by default.
BUDGET_SECONDS = 30.0
HARMLESS = {
    "users": ("users", "CountUsers"),
    "admin": ("admin", "ListRoleBindings"),
    "public": ("public", "GetPublicInfo"),
}


@contextmanager
def killed(service: str) -> Iterator[None]:
    """Kills a service, and starts it again."""
    compose("kill", service)
    try:
        yield
    finally:
        compose("start", service)


async def health(host: Host, name: str = "") -> dict[str, str]:
    return await asyncio.to_thread(check_health, host.profile, OURS, name, 5.0)


async def all_serve(host: Host) -> None:
    await until(lambda: health(host), lambda found: set(found.values()) == {"SERVING"})


async def test_while_keycloak_is_away_known_tokens_serve_on_and_no_token_is_called_bad(host: Host) -> None:
    known, fresh, alice = await host.client_token(), await host.client_token(), await host.user_token("alice")
    introspected = time.monotonic()
    assert await host.code("users", "CountUsers", known) is _CODE.OK
    user = {"user_id": "01890a5d-ac96-774b-bcce-b302099a8057", "revoke_roles": ["x"]}
    with killed("keycloak"):
        code = await host.code("users", "CountUsers", known)
        assert code is _CODE.OK or time.monotonic() - introspected > BUDGET_SECONDS
        unknown = await host.call("users", "CountUsers", token=fresh)
        assert (unknown.code, unknown.reason) == (_CODE.UNAVAILABLE, "ISSUER_UNAVAILABLE")
        online = await host.call("admin", "ManageRoles", user, token=alice)
        assert online.code is _CODE.UNAVAILABLE
        assert await host.code("users", "CountUsers") is _CODE.UNAUTHENTICATED
        assert await host.code("public", "GetPublicInfo") is _CODE.OK
        assert set((await health(host)).values()) == {"SERVING"}
        with pytest.raises(httpx.TransportError):
            await host.client_token()
        told = host.gatehouse("call", "users", "ListUsers", "--as", "alice")
        assert (told.returncode, told.stderr.count("\n")) == (3, 1)
        late = await until(
            lambda: host.code("users", "CountUsers", known), lambda found: found is not _CODE.OK, 90
        )
        assert late is _CODE.UNAVAILABLE
        assert time.monotonic() - introspected > BUDGET_SECONDS - 5
    # Its keys are kept, so the tokens of before are good again.
    for token in (known, fresh):
        await until(partial(host.code, "users", "CountUsers", token), lambda found: found is _CODE.OK)

    assert await host.code("users", "CountUsers", await host.client_token()) is _CODE.OK


async def test_while_postgres_is_away_services_say_so_and_still_refuse_whom_they_must(host: Host) -> None:
    alice, bob = await host.user_token("alice"), await host.user_token("bob")
    assert await host.code("users", "CountUsers", alice) is _CODE.OK
    with killed("postgres"):
        await until(lambda: health(host), lambda found: set(found.values()) == {"NOT_SERVING"})
        assert set((await health(host, "liveness")).values()) == {"SERVING"}
        told = host.gatehouse("healthcheck", "users")
        assert told.returncode == 1
        for service, method in HARMLESS.values():
            outcome = await host.call(service, method, token=alice)
            assert (outcome.code, outcome.reason) == (_CODE.UNAVAILABLE, "DATABASE_UNAVAILABLE"), service
        assert await host.code("users", "CountUsers") is _CODE.UNAUTHENTICATED
        assert await host.code("admin", "GetStats", bob) is _CODE.PERMISSION_DENIED
    await all_serve(host)
    for service, method in HARMLESS.values():
        assert await host.code(service, method, alice) is _CODE.OK, service


@pytest.mark.parametrize("service", OURS)
async def test_while_one_service_is_away_its_callers_are_told_and_the_others_go_on(
    service: str, host: Host
) -> None:
    alice = await host.user_token("alice")
    with killed(service):
        for other, (name, method) in HARMLESS.items():
            expected = _CODE.UNAVAILABLE if other == service else _CODE.OK
            assert await host.code(name, method, alice) is expected, other
        told = host.gatehouse("healthcheck", service)
        assert told.returncode == 3
        assert told.stderr == f"gatehouse: {service}: UNREACHABLE; its log says why\n"
    await all_serve(host)
    for name, method in HARMLESS.values():
        assert await host.code(name, method, alice) is _CODE.OK, name


async def test_while_users_is_away_admin_names_what_it_lacks_and_answers_the_rest(host: Host) -> None:
    alice = await host.user_token("alice")
    with killed("users"):
        outcome = await host.call("admin", "GetStats", token=alice)
        assert (outcome.code, outcome.reason) == (_CODE.UNAVAILABLE, "USER_SERVICE_UNAVAILABLE")
        assert await host.code("admin", "ListAuditEvents", alice) is _CODE.OK
    await all_serve(host)
    await until(lambda: host.code("admin", "GetStats", alice), lambda found: found is _CODE.OK)


async def test_a_service_that_is_stopped_ends_by_itself_and_well(host: Host) -> None:
    try:
        compose("stop", "public")
        listed = compose("ps", "--all", "--format", "{{.ExitCode}}", "public").stdout.strip()
        assert listed == "0"
    finally:
        compose("start", "public")
    await all_serve(host)
