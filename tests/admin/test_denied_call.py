"""`gatehouse call` of an RPC whose rule requires a role."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.rpc import Server, ServerTelemetry, Service
from tests.support.cli import Cli
from tests.support.rpc import PLAINTEXT, TableVerifier, principal
from tests.support.scopes import EVERY_SCOPE
from tests.support.services import quiet


async def test_call_without_the_role_names_it(cli: Cli, tmp_path: Path) -> None:
    verifier = TableVerifier()
    verifier.answers["bob"] = principal(*EVERY_SCOPE.split(), roles=("user",))
    servicer = admin_pb2_grpc.AdminServiceServicer()  # type: ignore[abstract]  # no method is called
    service = Service(admin_pb2_grpc.add_AdminServiceServicer_to_server, servicer)
    server = Server([service], verifier=verifier, tls=PLAINTEXT, telemetry=ServerTelemetry(quiet()))
    port = await server.start()
    try:
        profile = tmp_path / "profile.json"
        profile.write_text(json.dumps({"targets": {"admin": f"127.0.0.1:{port}"}, "plaintext": True}))
        arguments = ("call", "admin", "ManageRoles", "--token", "-")
        done = await asyncio.to_thread(cli, *arguments, given="bob", GATEHOUSE_PROFILE=str(profile))
    finally:
        await server.stop(0)
    assert done.code == 1
    assert (
        done.err.splitlines()[-1]
        == "gatehouse: the token needs one of the roles that the rule requires: admin"
    )
