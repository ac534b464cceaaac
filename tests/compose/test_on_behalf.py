"""AdminService calls UserService on behalf of its caller, by token exchange at Keycloak."""

# <part admin/>

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc

from gatehouse.client.calls import new_trace
from gatehouse.client.issuer import decode
from tests.support.compose import Host, compose, log_lines, until


async def callers_of_users(trace_id: str) -> set[tuple[str, str]]:
    """Return subject and client of the calls that UserService logged in a trace."""
    lines = await asyncio.to_thread(log_lines, "users")
    found = [line for line in lines if line["event"] == "rpc" and line.get("trace_id") == trace_id]
    return {(line["subject"], line["client_id"]) for line in found}


async def test_user_service_is_called_for_the_caller(host: Host, tmp_path: Path) -> None:
    settings = {"services": {"admin": {"environment": {"GATEHOUSE_ADMIN__CALL_USERS_AS": "caller"}}}}
    override = tmp_path / "override.yaml"
    override.write_text(json.dumps(settings))
    up = ("up", "--wait", "--no-deps", "admin")
    try:
        await asyncio.to_thread(compose, "-f", "docker-compose.yml", "-f", str(override), *up)
        token = await host.user_token("alice", "read:users admin")
        trace_id, traceparent = new_trace()
        metadata = (("traceparent", traceparent),)
        answer = await host.call("admin", "GetStats", token=token, metadata=metadata)
        assert answer.code is grpc.StatusCode.OK
        found = await until(lambda: callers_of_users(trace_id), bool, 30)
        assert found == {(decode(token)["claims"]["sub"], "gatehouse-admin-service")}
        # What the caller may not do herself, AdminService does not do for her.
        refused = await host.code("admin", "GetStats", await host.user_token("alice", "admin"))
        assert refused is grpc.StatusCode.PERMISSION_DENIED
    finally:
        await asyncio.to_thread(compose, *up)
