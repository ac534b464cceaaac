"""AdminService calls UserService on behalf of its caller, by token exchange at the development issuer."""

# <part admin/>

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.client import StaticToken
from gatehouse_testbed.ports import free_port
from tests.support.eventually import eventually
from tests.support.rpc import error_info
from tests.support.system import System


@pytest.fixture
async def port(system: System) -> AsyncIterator[int]:
    """Port of an AdminService that calls UserService on behalf of its callers."""
    port = free_port()
    settings = {"GATEHOUSE_ADMIN__PORT": str(port), "GATEHOUSE_ADMIN__CALL_USERS_AS": "caller"}
    program = system.spawn("serve", "admin", **settings)
    await system.wait_for_replica("admin", program, port)
    yield port
    program.end()


async def test_user_service_is_called_for_the_caller(system: System, port: int) -> None:
    async def call(rpc: str, request: Any, token: str) -> tuple[str, str]:
        async with system.channel("admin", port, tokens=StaticToken(token)) as channel:
            call = getattr(admin_pb2_grpc.AdminServiceStub(channel), rpc)(request, timeout=60)
            code = (await call.code()).name
            return code, "" if code == "OK" else error_info(await call.trailing_metadata()).reason

    async def stats(token: str) -> tuple[str, str]:
        return await call("GetStats", pb.GetStatsRequest(), token)

    def counted() -> list[tuple[str, str]]:
        """Return subject and client of the calls that UserService logged since the test began."""
        lines = system.programs["users"].lines()[before:]
        return [(x["subject"], x["client_id"]) for x in lines if x["method"].endswith("/CountUsers")]

    before = len(system.programs["users"].lines())
    tokens = system.user_tokens("alice", "read:users admin")
    alice = tokens["access_token"]
    assert await stats(alice) == ("OK", "")
    assert await stats(alice) == ("OK", "")
    await eventually(lambda: len(counted()) == 2)
    subject = jwt.decode(alice, options={"verify_signature": False})["sub"]
    assert set(counted()) == {(subject, "gatehouse-admin-service")}

    # What the caller may not do herself, AdminService does not do for her.
    assert await stats(system.user_token("alice", "admin")) == ("PERMISSION_DENIED", "CALLER_LACKS_SCOPE")
    stranger = system.user_token("alice", "read:users admin", "other issuer")
    assert await stats(stranger) == ("PERMISSION_DENIED", "CALLER_OF_OTHER_ISSUER")

    # AdminService remembers that the token was active; the issuer no longer exchanges it.
    late = system.user_tokens("alice", "read:users admin")
    assert await call("ListAuditEvents", pb.ListAuditEventsRequest(), late["access_token"]) == ("OK", "")
    system.revoke(late["refresh_token"])
    code, reason = await stats(late["access_token"])
    assert (code, reason) in {
        ("UNAUTHENTICATED", "TOKEN_EXCHANGE_REFUSED"),
        ("UNAUTHENTICATED", "TOKEN_INACTIVE"),  # if that took longer than the revocation budget
    }
    assert len(counted()) == 2
