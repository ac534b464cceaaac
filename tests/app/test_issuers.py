"""What operators learn of issuers that cannot be used: log lines, metrics and the health check."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import httpx

from gatehouse.client import connect
from gatehouse.settings import TlsSettings
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.ports import free_port
from tests.support.certificates import Authority
from tests.support.cli import Cli, Done
from tests.support.eventually import eventually
from tests.support.gatehouse_process import GatehouseProcess, run_gatehouse
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import AUDIENCE, METADATA, LoopbackIssuer, loopback_issuer
from tests.support.services import FixedToken

UNAVAILABLE, AVAILABLE = "issuer unavailable", "issuer available"


def entry(issuer: str, mode: str = "jwt", **more: Any) -> dict[str, Any]:
    return {"issuer": issuer, "audience": AUDIENCE, "mode": mode, **more}


async def until_logged(process: GatehouseProcess, event: str, issuer: str, count: int = 1) -> dict[str, Any]:
    """Return the line number `count` with this event about an issuer."""
    found: list[dict[str, Any]] = []
    total = 0
    while len(found) < count:
        total += 1
        found = [line for line in await process.until(event, total) if line["issuer"] == issuer]
    return found[-1]


async def test_each_unusable_issuer_is_logged_and_reported_with_reason_and_hint(
    authority: Authority, cli: Cli
) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> LoopbackIssuer:
            return await stack.enter_async_context(loopback_issuer(**options))

        mistyped, mismatched, private, opaque = (
            await start(),
            await start(),
            await start(tls=authority.server_context()),
            await start(),
        )
        with_slash = f"{mistyped.issuer}/"
        nowhere = f"http://127.0.0.1:{free_port()}"
        original = opaque.handler(METADATA)
        opaque.answer(METADATA, Reply(b"canary", 404))
        issuers = [
            entry(with_slash),
            entry(mismatched.issuer, algorithms=["RS256", "PS256"]),
            entry(private.issuer),
            entry(nowhere),
            entry(opaque.issuer, "introspection", client_id="api", client_secret="canary-wrong"),
        ]
        settings = {"GATEHOUSE_ISSUERS": json.dumps(issuers), "GATEHOUSE_USERS__PORT": str(port)}
        metrics_port = free_port()
        users = await stack.enter_async_context(
            run_gatehouse("serve", "users", GATEHOUSE_TELEMETRY__METRICS_PORT=str(metrics_port), **settings)
        )
        lines = {line["issuer"]: line for line in await users.until(UNAVAILABLE, len(issuers))}
        assert {name: (line["reason"], line["detail"]) for name, line in lines.items()} == {
            with_slash: ("DISCOVERY_ISSUER_MISMATCH", f"expected {with_slash}, found {mistyped.issuer}"),
            mismatched.issuer: ("KEYS_UNUSABLE", "1 keys, for ES256; accepted RS256, PS256"),
            private.issuer: (
                "DISCOVERY_UNREACHABLE",
                f"{private.url(METADATA)}: certificate not accepted: unable to get local issuer certificate",
            ),
            nowhere: (
                "DISCOVERY_UNREACHABLE",
                f"{nowhere}/{METADATA}: connection refused",
            ),
            opaque.issuer: (
                "DISCOVERY_FAILED",
                f"{opaque.url(METADATA)}: HTTP 404 (no JSON object)",
            ),
        }
        assert all(line["hint"] and line["level"] == "warning" for line in lines.values())

        async def health() -> Done:
            variables = {"GATEHOUSE_TLS__PLAINTEXT": "true", "GATEHOUSE_USERS__PORT": str(port)}
            return await asyncio.to_thread(cli, "healthcheck", "users", **variables)

        async def health_with_reasons() -> Done | None:
            done = await health()  # polled
            return done if "STARTING" not in done.err else None

        done = await eventually(health_with_reasons)
        assert done is not None
        assert (done.code, done.out) == (1, "users  NOT_SERVING\n")
        problems = done.err.partition("(")[2].partition(")")[0].split("; ")
        assert problems == ["database: DATABASE_UNAVAILABLE"] + [
            f"issuer {name}: {line['reason']}" for name, line in lines.items()
        ]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics_port}") as http:
            ready, live = await http.get("/readyz"), await http.get("/livez")
        assert (ready.status_code, ready.text.splitlines()) == (503, problems)
        assert (live.status_code, live.text) == (200, "ok\n")

        # One issuer is enough to be ready; it refuses our credentials.
        opaque.answer(METADATA, original)
        assert (await until_logged(users, AVAILABLE, opaque.issuer))["level"] == "info"
        channel = await stack.enter_async_context(
            connect(f"127.0.0.1:{port}", tls=TlsSettings(plaintext=True), tokens=FixedToken("opaque"))
        )
        stub: Any = users_pb2_grpc.UserServiceStub(channel)
        call = stub.CountUsers(users_pb2.CountUsersRequest(), timeout=60)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        refused = await until_logged(users, UNAVAILABLE, opaque.issuer, 2)
        assert (refused["level"], refused["reason"], refused["use"]) == (
            "error",
            "INTROSPECTION_REFUSED",
            "introspection",
        )
        assert refused["detail"] == f"{opaque.url('introspect')}: HTTP 401 (invalid_client)"
        rpc = (await users.until("rpc"))[-1]
        assert (rpc["reason"], rpc["cause"]) == ("ISSUER_UNAVAILABLE", "INTROSPECTION_REFUSED")

        async with httpx.AsyncClient() as http:

            async def scrape() -> str:
                return (await http.get(f"http://127.0.0.1:{metrics_port}/metrics")).text

            text = await scrape()
            for issuer, use in ((with_slash, "keys"), (opaque.issuer, "introspection")):
                sample = next(
                    line
                    for line in text.splitlines()
                    if line.startswith("gatehouse_issuer_available") and f'"{issuer}"' in line
                )
                assert f'use="{use}"' in sample
                assert sample.endswith(" 0.0")
        assert "canary" not in json.dumps(users.lines)
        assert "(database: DATABASE_UNAVAILABLE)" in (await health()).err
