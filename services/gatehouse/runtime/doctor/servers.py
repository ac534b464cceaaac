"""Checks of gRPC servers: why one cannot be reached, and what its health is."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client import connect
from gatehouse.runtime.doctor.result import CHECK_SECONDS, Problem, Status
from gatehouse.settings import TlsSettings

# Shorter than the check, so that gRPC says why.
_CALL_SECONDS = CHECK_SECONDS - 1
_REASONS = {
    "Connection refused": "connection refused; start the server, or correct the address",
    "errors resolving": "the name cannot be resolved; correct the address, or check DNS",
    "WRONG_VERSION_NUMBER": "the server does not use TLS; enable it there, or disable it here",
    "Socket closed": "the server closed the connection; it may require TLS",
}


class CertificateProblem(Problem):
    """The server responds, but its certificate cannot be verified."""


async def check_health(target: str, service: str, tls: TlsSettings, server_name: str | None = None) -> str:
    """Return the health of a service (grpc.health.v1), such as `SERVING`.

    Args:
        target: Target of the server, in gRPC naming.
        service: Full name of the service.
        tls: Certificate authorities to trust, or permission to use plaintext.
        server_name: Name in the certificate of the server, if it is not that of the target.

    Raises:
        Problem: The server cannot be reached, or does not have this service.
        TlsError: The settings do not allow a connection.
    """
    async with connect(target, tls=tls, server_name=server_name) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise explain_failure(error.code().name, error.details() or "", target) from None
    status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return status


async def require_serving(target: str, service: str, tls: TlsSettings) -> str:
    """Return a text that says that a service is SERVING; see check_health.

    Raises:
        Problem: It is not.
        TlsError: The settings do not allow a connection.
    """
    status = await check_health(target, service, tls)
    if status != "SERVING":
        raise Problem(f"{target}: {status}; run `gatehouse doctor` where it runs", Status.WARNING)
    return f"{target}: {status}"


def explain_failure(code: str, text: str, target: str) -> Problem:
    """Return why a call of a gRPC server failed.

    gRPC has no codes for these reasons, so they are recognized by its text. Another text is shown if it is
    gRPC's own and contains no user name and password.

    Args:
        code: Name of the gRPC status code.
        text: Message of the status.
        target: Target of the call.
    """
    if code in {"UNIMPLEMENTED", "NOT_FOUND"}:
        return Problem(f"{target}: another server listens there; correct the address")
    if code == "DEADLINE_EXCEEDED":
        return Problem(f"{target}: no answer in time; check the address and firewalls")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("CERTIFICATE_VERIFY_FAILED:")[2].removesuffix(": OK").strip()
        return CertificateProblem(
            f"{target}: its certificate is not trusted ({reason}); trust the authority that signed it"
        )
    if "Hostname Verification Check failed" in text:
        return CertificateProblem(
            f"{target}: its certificate is for another name; use a name that is in the certificate"
        )
    for part, reason in _REASONS.items():
        if part in text:
            return Problem(f"{target}: {reason}")
    is_safe = code == "UNAVAILABLE" and "@" not in text
    return Problem(f"{target}: {code} {text if is_safe else ''}".rstrip())
