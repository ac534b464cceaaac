"""Checks of ports: free, or served by the service that is checked."""

from __future__ import annotations

import errno
import socket

import httpx

from gatehouse.client.profile import local_target
from gatehouse.runtime.doctor.result import CHECK_SECONDS, Problem, Status
from gatehouse.runtime.doctor.servers import CertificateProblem, check_health
from gatehouse.settings import Settings


async def check_port(settings: Settings, name: str, service: str, server_name: str | None) -> str:
    """Return who uses the port of a service.

    Args:
        settings: All settings.
        name: Short name of the service.
        service: Full name of the service, for its health check.
        server_name: Name in the certificate of the server, if it is not that of the host.

    Raises:
        Problem: The service cannot listen there.
    """
    host, port = settings.server.host, getattr(settings, name).port
    setting = f"GATEHOUSE_{name.upper()}__PORT"
    if port == 0:
        return f"{host}: takes a free port at each start"
    if _is_free(host, port, f"GATEHOUSE_SERVER__HOST or {setting}"):
        return f"{host}:{port}: free"
    try:
        status = await check_health(local_target(host, port), service, settings.tls, server_name)
    except CertificateProblem as problem:
        raise Problem(f"in use; cannot check by which server: {problem}", Status.WARNING) from None
    except Problem:
        raise Problem(
            f"{host}:{port}: used by another program, or by a server with other settings; stop it, or set "
            f"{setting}"
        ) from None
    if status != "SERVING":
        raise Problem(
            f"{host}:{port}: served by {service}, which is {status}; see the other checks", Status.WARNING
        )
    return f"{host}:{port}: served by {service}, {status}"


async def check_metrics_port(settings: Settings, name: str) -> str:
    """Return who uses the port of the metrics; see check_port.

    Args:
        settings: All settings.
        name: Name of the service whose metrics are served there.

    Raises:
        Problem: The service cannot listen there.
    """
    host, port = settings.telemetry.metrics_host, settings.telemetry.metrics_port
    if port is None:
        return "disabled"
    if port == 0:
        return f"{host}: takes a free port at each start"
    if _is_free(host, port, "GATEHOUSE_TELEMETRY__METRICS_HOST"):
        return f"{host}:{port}: free"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=CHECK_SECONDS - 1) as http:
            text = (await http.get(f"http://{local_target(host, port)}/metrics")).text
    except httpx.HTTPError:
        text = ""
    target = next((line for line in text.splitlines() if line.startswith("target_info{")), "")
    if 'service_namespace="gatehouse"' not in target or name not in target:
        raise Problem(
            f"{host}:{port}: used by another program, or by another service; stop it, or set "
            "GATEHOUSE_TELEMETRY__METRICS_PORT"
        )
    return f"{host}:{port}: served by Gatehouse"


def _is_free(host: str, port: int, settings: str) -> bool:
    """Return whether a server could listen on an address, by binding it for a moment.

    Args:
        host: Host name or IP address.
        port: Port.
        settings: Which settings to correct if it is impossible, whatever else runs.

    Raises:
        Problem: This process may not use the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        # As gRPC does: connections of an earlier server that are still closing do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            reason = (error.strerror or str(error)).lower()
            raise Problem(f"{host}:{port}: cannot listen ({reason}); correct {settings}") from None
    return True
