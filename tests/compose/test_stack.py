"""`docker compose up` from nothing: containers, published ports, networks, and what `down` leaves."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from gatehouse.app.services import SERVICES
from tests.support.compose import (
    ONE_SHOT,
    OURS,
    PROJECT,
    SERVING,
    Host,
    compose,
    down,
    execute,
    inspect,
    leftovers,
    until,
    up,
)


def test_configuration_is_valid_without_warnings(docker: None) -> None:
    done = compose("--profile", "*", "config", "--quiet")
    assert done.stdout + done.stderr == ""


async def states() -> dict[str, tuple[str, str, int]]:
    """Return (state, health, exit code) of each container."""
    listed = await asyncio.to_thread(compose, "ps", "--all", "--format", "json")
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    return {one["Service"]: (one["State"], one["Health"], one["ExitCode"]) for one in found}


async def test_all_services_are_healthy_and_one_shot_services_succeeded(stack: None) -> None:
    expected = dict.fromkeys(SERVING, ("running", "healthy", 0)) | dict.fromkeys(ONE_SHOT, ("exited", "", 0))
    # Docker checks every 10 s, and another test may just have killed a container.
    await until(states, lambda found: found == expected)


def test_published_ports_are_on_loopback_only(stack: None) -> None:
    published = {}
    for service in SERVING:
        bound = inspect(service)["NetworkSettings"]["Ports"] or {}
        for port, places in bound.items():
            if places:
                published[service, port] = {place["HostIp"] for place in places}
    assert published == {
        ("keycloak", "8080/tcp"): {"127.0.0.1"},
        # <part console>
        ("console", "8090/tcp"): {"127.0.0.1"},
        # </part console>
        ("jaeger", "16686/tcp"): {"127.0.0.1"},
        ("prometheus", "9090/tcp"): {"127.0.0.1"},
    } | {("entry", f"{spec.default_port}/tcp"): {"127.0.0.1"} for spec in SERVICES.values()}


def test_the_database_is_reached_only_by_those_who_need_it(stack: None) -> None:
    members = {
        service
        for service in SERVING
        if f"{PROJECT}_database" in inspect(service)["NetworkSettings"]["Networks"]
    }
    assert members == {"postgres", *OURS}
    assert set(inspect("postgres")["NetworkSettings"]["Networks"]) == {f"{PROJECT}_database"}
    reach = "exec 3<>/dev/tcp/{}"
    assert execute("keycloak", "bash", "-c", reach.format("jaeger/16686")).returncode == 0
    refused = execute("keycloak", "bash", "-c", reach.format("postgres/5432"), check=False)
    assert refused.returncode != 0
    assert "postgres: " in refused.stderr


def test_database_refuses_connections_without_tls(stack: None) -> None:
    address = "host=127.0.0.1 user=gatehouse_users dbname=gatehouse sslmode="
    plain = execute("postgres", "psql", "--no-password", f"{address}disable", "-c", "SELECT 1", check=False)
    assert "no encryption" in plain.stderr
    tls = execute("postgres", "psql", "--no-password", f"{address}require", "-c", "SELECT 1", check=False)
    assert "no password supplied" in tls.stderr


def test_each_service_uses_tls_and_an_unprivileged_role_in_the_database(
    stack: None,
) -> None:
    ask = """
        SELECT DISTINCT a.usename, ssl, rolsuper OR rolcreatedb OR rolcreaterole
        FROM pg_stat_activity a JOIN pg_stat_ssl USING (pid) JOIN pg_roles ON rolname = a.usename
        WHERE client_addr IS NOT NULL
    """
    rows = execute("postgres", "psql", "--tuples-only", "--no-align", "--dbname=gatehouse", "-c", ask)
    assert set(rows.stdout.split()) == {f"gatehouse_{service}|t|f" for service in OURS}


@pytest.mark.parametrize("service", SERVICES)
def test_doctor_finds_nothing_wrong_with_a_running_service(stack: None, service: str) -> None:
    done = execute(service, "gatehouse", "doctor", "--format", "json", check=False)
    results = json.loads(done.stdout)
    assert {row["status"] for row in results} == {"ok"}, done.stdout
    assert f"{service}: migrations" in {row["check"] for row in results}
    assert done.returncode == 0


async def test_down_leaves_nothing_and_a_second_up_works(stack: None) -> None:
    assert len(leftovers()) > 10
    try:
        down()
        assert leftovers() == []
    finally:
        up()


async def test_restart_keeps_users_and_secrets(host: Host) -> None:
    made = await host.call(
        "users",
        "CreateUser",
        {"user": {"email": "kept@example.test", "display_name": "Kept"}},
        token=await host.client_token(scope="write:users"),
    )
    assert made.code in {grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS}
    compose("--profile", "*", "down")
    up()
    found = await host.call(
        "users", "ListUsers", {"filter": 'email = "kept@example.test"'}, token=await host.client_token()
    )
    assert [user.display_name for user in found.responses[0].users] == ["Kept"]
