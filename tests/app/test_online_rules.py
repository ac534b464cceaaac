"""A rule that asks online, and an issuer that is never asked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest


async def first_lines(mode: str) -> list[dict[str, Any]]:
    """What AdminService logs until it listens; database, issuer and UserService may be away."""
    accepted = {
        "issuer": "https://issuer.test",
        "audience": "api",
        "mode": mode,
        "client_id": "api",
        "client_secret": "canary",
    }
    base = {name: value for name, value in os.environ.items() if not name.startswith("GATEHOUSE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gatehouse",
        "serve",
        "admin",
        env=base
        | {
            "GATEHOUSE_ISSUERS": json.dumps([accepted]),
            "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "admin",
            "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": "canary",
            "GATEHOUSE_ADMIN__DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
            "GATEHOUSE_TLS__PLAINTEXT": "true",
            "GATEHOUSE_ADMIN__PORT": "0",
            "GATEHOUSE_LOG__FORMAT": "json",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(120):
            async for line in process.stdout:
                lines.append(json.loads(line))
                if lines[-1]["event"] == "listening":
                    return lines
    finally:
        process.terminate()
        await process.communicate()
    raise AssertionError(lines)


async def test_an_online_rule_and_an_issuer_that_is_never_asked_make_a_warning_at_start() -> None:
    warnings = [line for line in await first_lines("jwt") if line["event"] == "no online answers in mode jwt"]
    assert [line["methods"] for line in warnings] == [["gatehouse.admin.v1.AdminService/ManageRoles"]]
    assert warnings[0]["issuers"] == ["https://issuer.test"]


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_an_issuer_that_is_asked_makes_no_warning(mode: str) -> None:
    assert "no online answers in mode jwt" not in [line["event"] for line in await first_lines(mode)]
