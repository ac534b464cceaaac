"""The check of other servers, on servers that do well and badly."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import structlog

from gatehouse.oauth import MultiIssuerVerifier
from gatehouse.rpc import PolicyOptions, Server, ServerTelemetry
from gatehouse.settings import IssuerSettings
from gatehouse_testbed.ports import free_port
from tests.support.child_coverage import measured
from tests.support.issuer import SECRETS
from tests.support.rpc import PLAINTEXT, Text, service_of

METHOD = "acme.v1.Orders/GetOrder"


async def answer(request: Text, _: object) -> Text:
    return request


@asynccontextmanager
async def server(issuer_port: int, mode: str) -> AsyncIterator[int]:
    """A server that trusts the issuer of the check; yield its port."""
    settings = IssuerSettings.model_validate(
        {
            "issuer": f"http://127.0.0.1:{issuer_port}/realms/gatehouse",
            "audience": "acme-orders",
            "mode": mode,
            **(
                {}
                if mode == "jwt"
                else {"client_id": "gatehouse-api", "client_secret": SECRETS["gatehouse-api"]}
            ),
        }
    )
    async with httpx.AsyncClient(trust_env=False) as http:
        verifier = MultiIssuerVerifier([settings], http_for=lambda _: http)
        service = service_of("acme.v1.Orders", GetOrder=answer)
        policy = PolicyOptions(method_scopes={f"/{METHOD}": ("read:users",)})
        telemetry = ServerTelemetry(structlog.get_logger())
        running = Server([service], verifier=verifier, tls=PLAINTEXT, telemetry=telemetry, policy=policy)
        port = await running.start()
        try:
            yield port
        finally:
            await running.stop(0)
            await verifier.aclose()


async def check(port: int, issuer_port: int, *more: str) -> tuple[int | None, str, str]:
    """Run `gatehouse conformance` on a server."""
    arguments = ["--target", f"127.0.0.1:{port}", "--plaintext", "--method", METHOD]
    arguments += ["--issuer-port", str(issuer_port), "--audience", "acme-orders", *more]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse", "conformance", *arguments),
        env=measured({k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def verdicts(out: str) -> dict[str, str]:
    """Return the verdict of each case."""
    row = re.compile(r"^(\w+) +(?:accepted|refused) +[A-Z_]+ +(\w+) ", re.MULTILINE)
    return dict(row.findall(out))


async def test_server_that_asks_the_issuer_passes() -> None:
    issuer_port = free_port()
    async with server(issuer_port, "hybrid") as port:
        code, out, err = await check(port, issuer_port)
    assert (code, err) == (0, ""), out
    assert len(verdicts(out)) == 25
    assert set(verdicts(out).values()) == {"ok"}, out
    assert "23 of 25 answers have a challenge in www-authenticate" in out


async def test_server_that_accepts_revoked_tokens_fails() -> None:
    issuer_port = free_port()
    async with server(issuer_port, "jwt") as port:
        code, out, _ = await check(port, issuer_port)
    assert code == 1, out
    assert {name for name, verdict in verdicts(out).items() if verdict != "ok"} == {"revoked"}
    assert "accepted, and must be refused: revoked" in out


async def test_server_without_authorization_fails() -> None:
    async def reply(requests: object, _: object) -> bytes:
        return b""

    open_server = grpc.aio.server()
    handlers: dict[str, Any] = {"GetOrder": grpc.unary_unary_rpc_method_handler(reply)}
    open_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("acme.v1.Orders", handlers),))
    port = open_server.add_insecure_port("127.0.0.1:0")
    await open_server.start()
    code, out, _ = await check(port, free_port())
    unknown = await check(port, free_port(), "--method", "acme.v1.Orders/Nothing")
    await open_server.stop(0)
    assert unknown[:2] == (3, "")
    assert "Nothing: the server has no such RPC; check --method" in unknown[2]
    assert code == 1, out
    accepted = {name for name, verdict in verdicts(out).items() if verdict == "ACCEPTED"}
    # gRPC itself refuses some calls with more than 8 KiB of metadata.
    assert accepted | {"oversized"} == verdicts(out).keys() - {"valid", "lower_case_scheme"}


async def test_server_that_is_not_ready_is_an_error_of_one_line() -> None:
    code, out, err = await check(free_port(), free_port(), "--wait", "0")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "UNAVAILABLE for a good token; check --target, --ca-file or --plaintext" in err


async def test_server_that_trusts_another_audience_is_an_error_of_one_line() -> None:
    issuer_port = free_port()
    async with server(issuer_port, "hybrid") as port:
        wrong = await check(port, issuer_port, "--wait", "0", "--audience", "odd")
        denied = await check(port, issuer_port, "--wait", "0", "--user", "bob", "--scope", "profile")
    assert (wrong[0], wrong[2].count("\n")) == (3, 1)
    assert f"http://127.0.0.1:{issuer_port}/realms/gatehouse and the audience odd" in wrong[2]
    assert (denied[0], "change --user, --client or --scope" in denied[2]) == (3, True), denied


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--user", "nobody", "nobody: unknown user"),
        ("--client", "nothing", "nothing: unknown client"),
        ("--method", "Orders", "name an RPC as package.Service/Method"),
        ("--ca-file", "ca.crt", "--ca-file and --plaintext exclude each other"),
    ],
)
async def test_unusable_option_is_an_error_of_one_line(option: str, value: str, reason: str) -> None:
    code, out, err = await check(free_port(), free_port(), "--wait", "0", option, value)
    assert (code, out, err.count("\n"), reason in err) == (2, "", 1, True), err
