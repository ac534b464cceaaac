"""Run Envoy as a gateway in front of UserService."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import grpc
import httpx

CONFIGURATION = Path(__file__).with_name("envoy.yaml")


@contextmanager
def run_gateway(users: str, ca_file: Path, issuer: str, keys_seconds: float = 300) -> Iterator[str]:
    """Run the gateway until the context ends, and return its gRPC target.

    Args:
        users: Address of UserService.
        ca_file: Certificate authority of UserService.
        issuer: Issuer URL.
        keys_seconds: How long the gateway keeps the keys of the issuer.
    """
    found = httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).raise_for_status().json()
    # A socket in a folder needs no free port. Its path must be short.
    with tempfile.TemporaryDirectory(prefix="gateway-", dir="/tmp") as folder:
        socket, file, log = Path(folder, "socket"), Path(folder, "envoy.yaml"), Path(folder, "log")
        values = {
            "SOCKET": socket,
            "ISSUER": issuer,
            "KEYS": found["jwks_uri"],
            "KEYS_SECONDS": keys_seconds,
            "CA_FILE": ca_file,
        }
        for name, url in (("USERS", f"//{users}"), ("ISSUER", issuer)):
            values |= {f"{name}_HOST": urlsplit(url).hostname, f"{name}_PORT": urlsplit(url).port}
        file.write_text(Template(CONFIGURATION.read_text()).substitute(values))
        command = ["envoy", "--config-path", str(file), "--use-dynamic-base-id", "--concurrency", "1"]
        process = subprocess.Popen([*command, "--log-path", str(log)], stderr=subprocess.DEVNULL)
        try:
            target = f"unix:{socket}"
            with grpc.insecure_channel(target) as channel:
                grpc.channel_ready_future(channel).result(timeout=30)
            yield target
        except grpc.FutureTimeoutError:
            raise RuntimeError(f"the gateway does not start:\n{log.read_text()}") from None
        finally:
            process.terminate()
            process.wait()
