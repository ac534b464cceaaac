"""`gatehouse serve` and `gatehouse call` end to end: real database, real issuer, processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.issuer import SECRETS, LiveIssuer


async def command(environment: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatehouse", *arguments, env=environment, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_three_services_answer_refuse_and_end_on_a_signal(
    issuer: LiveIssuer, database_urls: dict[str, str], tmp_path: Path
) -> None:
    ready, log = tmp_path / "ready.json", tmp_path / "log"
    base = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    accepted: dict[str, Any] = {
        "issuer": issuer.issuer,
        "audience": "gatehouse-api",
        "client_id": "gatehouse-api",
        "client_secret": SECRETS["gatehouse-api"],
    }
    settings = base | {
        "GATEHOUSE_ISSUERS": json.dumps([accepted]),
        "GATEHOUSE_TLS__PLAINTEXT": "true",
        "GATEHOUSE_CLIENT__CLIENT_ID": "gatehouse-admin-service",
        "GATEHOUSE_CLIENT__CLIENT_SECRET": SECRETS["gatehouse-admin-service"],
        "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
        **{f"GATEHOUSE_SERVER__{name}_PORT": "0" for name in ("USERS", "ADMIN", "PUBLIC")},
        **{f"GATEHOUSE_DATABASE__{n.upper()}_URL": u for n, u in database_urls.items() if n != "owner"},
    }
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gatehouse",
            "serve",
            "users",
            "admin",
            "public",
            "--ready-file",
            str(ready),
            env=settings,
            stdout=stream,
            stderr=stream,
        )
    try:
        async with asyncio.timeout(30):
            while not ready.exists():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
            ports = json.loads(ready.read_text())
            profile = tmp_path / "profile.json"
            profile.write_text(
                json.dumps(
                    {
                        "issuer": issuer.issuer,
                        **{f"{n}_target": f"127.0.0.1:{ports[n]}" for n in ("users", "admin", "public")},
                        "plaintext": True,
                        "clients": SECRETS,
                        "passwords": {name: name for name in ("alice", "bob")},
                    }
                )
            )
            asking = base | {"GATEHOUSE_PROFILE": str(profile)}
            while (await command(asking, "healthcheck", "users"))[0] != 0:
                assert process.returncode is None, log.read_text()

        code, _, err = await command(asking, "call", "users", "ListUsers", "--as", "bob")
        assert (code, err) == (0, ""), log.read_text()
        code, _, err = await command(asking, "call", "admin", "ListAuditEvents", "--as", "alice")
        assert (code, err) == (0, "")
        code, _, err = await command(asking, "call", "admin", "GetStats", "--as", "bob")
        assert code == 1
        assert err.startswith("gatehouse: PERMISSION_DENIED")
        code, _, err = await command(asking, "call", "users", "GetUser", "--client", "gatehouse-worker")
        assert (code, "INVALID_ARGUMENT" in err) == (1, True)
        code, _, err = await command(asking, "call", "users", "CountUsers")
        assert code == 1
        assert "UNAUTHENTICATED" in err
        assert (await command(asking, "call", "public", "GetPublicInfo"))[0] == 0
        token = await issuer.service_token()
        assert (await command(asking, "token", "introspect", token))[0] == 0
        assert (await command(asking, "token", "revoke", token, "--client", "gatehouse-worker"))[0] == 0
        assert (await command(asking, "token", "introspect", token))[0] == 1
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            code = await process.wait()
    assert code == 0, log.read_text()
    written = log.read_text()
    assert token not in written
    assert not any(secret in written for secret in SECRETS.values())
