"""`gatehouse healthcheck` for healthy services; containers run it every few seconds.

Loading all settings takes three times as long as the check, so this module reads the few that it needs. What
is unusual, or not healthy, is left to the full command, which explains it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from gatehouse.app.packages import PACKAGES

_SECONDS = 3.0
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_LIVENESS = b"\x0a\x08liveness"  # HealthCheckRequest with this service
_SERVING = b"\x08\x01"  # HealthCheckResponse


def find_serving(arguments: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """Return the names of the services that listen on this machine, if all of them are SERVING.

    Args:
        arguments: Arguments of `gatehouse healthcheck`.
        variables: The environment.

    Returns:
        Nothing if the full command must decide.
    """
    ports = {package.rpartition(".")[2]: import_module(package).DEFAULT_PORT for package in PACKAGES}
    names = [argument for argument in arguments if argument != "--liveness"]
    plaintext = _BOOLEANS.get(variables.get("GATEHOUSE_TLS__PLAINTEXT", "false").lower())
    host = variables.get("GATEHOUSE_SERVER__HOST", "127.0.0.1")
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - a server that listens there is asked on loopback
    if not set(names) <= set(ports) or plaintext is None or ":" in host or _is_unusual(variables, ports):
        return []
    targets = {}
    for name in names or ports:
        port = variables.get(f"GATEHOUSE_{name.upper()}__PORT", str(ports[name]))
        if _listens(host, port):
            targets[name] = f"{host}:{port}"
    if not targets or len(targets) < len(names):
        return []
    request = _LIVENESS if "--liveness" in arguments else b""
    are_serving = _are_serving(list(targets.values()), request, variables, plaintext=plaintext)
    return list(targets) if are_serving else []


def _is_unusual(variables: Mapping[str, str], services: Mapping[str, int]) -> bool:
    """Return whether a profile, a JSON section, a secret file or a name in lower case may be what counts."""
    sections = {"GATEHOUSE_SERVER", "GATEHOUSE_TLS", *(f"GATEHOUSE_{name.upper()}" for name in services)}
    ours = [name for name in variables if name.upper().startswith("GATEHOUSE_")]
    if "GATEHOUSE_PROFILE" in ours or any(name in sections or name.upper() != name for name in ours):
        return True
    folder = variables.get("GATEHOUSE_SECRETS_DIR")
    files = [name.upper() for name in os.listdir(folder)] if folder else []  # noqa: PTH208 - pathlib is slow
    return any(
        name in sections or name.startswith(("GATEHOUSE_SERVER__", "GATEHOUSE_TLS__")) or "__PORT" in name
        for name in files
    )


def _listens(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), _SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _are_serving(
    targets: Sequence[str], request: bytes, variables: Mapping[str, str], *, plaintext: bool
) -> bool:
    import grpc  # noqa: PLC0415 - takes long, and nothing may listen

    from gatehouse.grpc_options import NO_PROXY, server_name_option  # noqa: PLC0415

    options = [NO_PROXY, *server_name_option(variables.get("GATEHOUSE_TLS__SERVER_NAME"))]
    authorities = None
    if "GATEHOUSE_TLS__CA_FILE" in variables:
        with open(variables["GATEHOUSE_TLS__CA_FILE"], "rb") as file:  # noqa: PTH123 - pathlib is slow
            authorities = file.read()
    channels = [
        grpc.insecure_channel(target, options)
        if plaintext
        else grpc.secure_channel(target, grpc.ssl_channel_credentials(authorities), options)
        for target in targets
    ]
    checks: list[Any] = [channel.unary_unary("/grpc.health.v1.Health/Check") for channel in channels]
    calls = [check.future(request, timeout=_SECONDS) for check in checks]
    try:
        return all(call.result() == _SERVING for call in calls)
    except grpc.RpcError:
        return False
    finally:
        for channel in channels:
            channel.close()


def run(arguments: Sequence[str]) -> bool:
    """Print the health of services that are healthy; return False if the full command must run."""
    try:
        serving = find_serving(arguments, os.environ)
    except Exception:  # noqa: BLE001 - the full command explains what is wrong
        return False
    for name in serving:
        print(f"{name}  SERVING")  # noqa: T201 - the output of the command
    return bool(serving)
