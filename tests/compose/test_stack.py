"""`docker compose up` from nothing: what runs, what is reached from where, and what is left afterwards."""

from __future__ import annotations

import asyncio
import json

import grpc

from tests.support.compose import (
    ONE_SHOT,
    OURS,
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


def test_the_configuration_is_read_without_a_warning(docker: None) -> None:
    done = compose("--profile", "*", "config", "--quiet")
    assert done.stdout + done.stderr == ""


async def states() -> dict[str, tuple[str, str, int]]:
    """Returns (state, health, exit code) of each container."""
    listed = await asyncio.to_thread(compose, "ps", "--all", "--format", "json")
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    return {one["Service"]: (one["State"], one["Health"], one["ExitCode"]) for one in found}


async def test_everything_is_healthy_and_what_runs_once_ended_well(stack: None) -> None:
    expected = dict.fromkeys(SERVING, ("running", "healthy", 0)) | dict.fromkeys(ONE_SHOT, ("exited", "", 0))
    # Docker looks every 10 s, and another test may just have killed somebody.
    await until(states, lambda found: found == expected)


def test_only_keycloak_the_services_and_the_traces_are_published_and_on_loopback_only(stack: None) -> None:
    published = {}
    for service in SERVING:
        bound = inspect(service)["NetworkSettings"]["Ports"] or {}
        for port, places in bound.items():
            if places:
                published[service, port] = {place["HostIp"] for place in places}
    assert published == {
        ("keycloak", "8080/tcp"): {"127.0.0.1"},
        ("users", "50051/tcp"): {"127.0.0.1"},
        ("admin", "50052/tcp"): {"127.0.0.1"},
        ("public", "50053/tcp"): {"127.0.0.1"},
        ("jaeger", "16686/tcp"): {"127.0.0.1"},
    }


def test_the_database_is_reached_only_by_those_who_need_it(stack: None) -> None:
    members = {
        service
        for service in SERVING
        if "gatehouse_database" in inspect(service)["NetworkSettings"]["Networks"]
    }
    assert members == {"postgres", *OURS}
    assert set(inspect("postgres")["NetworkSettings"]["Networks"]) == {"gatehouse_database"}
    reach = "exec 3<>/dev/tcp/{}"
    assert execute("keycloak", "bash", "-c", reach.format("jaeger/16686")).returncode == 0
    refused = execute("keycloak", "bash", "-c", reach.format("postgres/5432"), check=False)
    assert refused.returncode != 0
    assert "postgres: " in refused.stderr


def test_the_database_refuses_a_connection_without_tls(stack: None) -> None:
    address = "host=127.0.0.1 user=gatehouse_users dbname=gatehouse sslmode="
    plain = execute("postgres", "psql", "--no-password", f"{address}disable", "-c", "SELECT 1", check=False)
    assert "no encryption" in plain.stderr
    tls = execute("postgres", "psql", "--no-password", f"{address}require", "-c", "SELECT 1", check=False)
    assert "no password supplied" in tls.stderr


def test_each_service_is_in_the_database_over_tls_and_as_a_role_with_no_more_than_its_rights(
    stack: None,
) -> None:
    ask = """
        SELECT DISTINCT a.usename, ssl, rolsuper OR rolcreatedb OR rolcreaterole
        FROM pg_stat_activity a JOIN pg_stat_ssl USING (pid) JOIN pg_roles ON rolname = a.usename
        WHERE client_addr IS NOT NULL
    """
    rows = execute("postgres", "psql", "--tuples-only", "--no-align", "--dbname=gatehouse", "-c", ask)
    assert set(rows.stdout.split()) == {f"gatehouse_{service}|t|f" for service in OURS}


async def test_after_down_nothing_is_left_and_a_second_up_works(stack: None) -> None:
    assert len(leftovers()) > 10
    try:
        down()
        assert leftovers() == []
    finally:
        up()


async def test_a_restart_keeps_users_and_secrets(host: Host) -> None:
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
