"""Envoy with the configuration of deploy/envoy/, in front of replicas on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from gatehouse_testbed.ports import HOST, free_port
from tests.ha import programs
from tests.support.eventually import eventually

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "balancer.yaml"


@asynccontextmanager
async def run_balancer(ports: Sequence[int], tls: Path) -> AsyncIterator[int]:
    """Run Envoy until the context ends, and return its port once all replicas are healthy.

    Args:
        ports: Ports of the replicas.
        tls: Folder with `tls.crt` and `tls.key` for `localhost`, and `ca.crt`.
    """
    entry, admin = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="gh-envoy-"))
    file = folder / "envoy.json"
    file.write_text(json.dumps(_configuration(ports, tls, entry, admin)))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(programs.envoy(), "--config-path", str(file), "--disable-hot-restart", "--concurrency", "1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://{HOST}:{admin}") as http:

            async def healthy() -> bool:
                assert process.returncode is None, (folder / "envoy.log").read_text()
                try:
                    text = (await http.get("/clusters")).text
                except httpx.HTTPError:
                    return False
                return text.count("::health_flags::healthy") == len(ports)

            await eventually(healthy)
        yield entry
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.to_thread(shutil.rmtree, folder)


def _configuration(ports: Sequence[int], tls: Path, entry: int, admin: int) -> Any:
    """Return the configuration with other addresses, files and names; nothing else changes."""
    text = CONFIGURATION.read_text(encoding="utf-8").replace("/run/gatehouse/entry", str(tls))
    content = yaml.safe_load(text)
    content["admin"]["address"]["socket_address"]["port_value"] = admin
    (listener,) = content["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": HOST, "port_value": entry}
    (cluster,) = content["static_resources"]["clusters"]
    upstream = cluster["transport_socket"]["typed_config"]
    upstream["sni"] = "localhost"
    validation = upstream["common_tls_context"]["validation_context"]
    validation["match_typed_subject_alt_names"][0]["matcher"]["exact"] = "localhost"
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}} for port in ports
    ]
    return content
