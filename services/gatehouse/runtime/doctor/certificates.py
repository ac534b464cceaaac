"""Checks of the certificate of the servers: validity, and a TLS handshake as a client would do it."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

from gatehouse.rpc.tls import parse_certificates, read_pem, server_credentials
from gatehouse.runtime.doctor.result import Problem, Status
from gatehouse.runtime.telemetry import discard_telemetry
from gatehouse.settings import TlsSettings

_WARN_DAYS = 14


async def check_validity(file: Path, now: dt.datetime) -> str:
    """Return for how long the certificates of a file are valid.

    Args:
        file: PEM certificates: a chain, or certificate authorities.
        now: Current time.

    Raises:
        TlsError: The file cannot be read or has no certificate.
        Problem: A certificate is not valid, or expires soon.
    """
    certificates = parse_certificates(file, read_pem(file))
    first, last = (
        max(certificate.not_valid_before_utc for certificate in certificates),
        min(certificate.not_valid_after_utc for certificate in certificates),
    )
    if first > now:
        raise Problem(f"{file}: not valid before {first:%Y-%m-%d %H:%M} UTC; check the clock of this machine")
    days = (last - now).days
    if last <= now:
        raise Problem(f"{file}: expired on {last:%Y-%m-%d}; renew it")
    if days < _WARN_DAYS:
        raise Problem(f"{file}: expires on {last:%Y-%m-%d}, in {days} days; renew it", Status.WARNING)
    return f"{file}: valid until {last:%Y-%m-%d} ({days} days)"


async def check_handshake(tls: TlsSettings, host: str, name: str) -> str:
    """Return that a client on this machine accepts the certificate of the servers.

    Args:
        tls: Certificate, key, and the authorities that clients trust.
        host: Address to listen on.
        name: Name that the client expects in the certificate.

    Raises:
        TlsError: A server cannot use the certificate and the key, or plaintext is not allowed.
        Problem: A client does not accept the certificate.
    """
    server_credentials(tls, host, discard_telemetry().logger, lambda _: None)
    certificate, key = tls.certificate_file, tls.private_key_file
    if certificate is None or key is None:
        return "disabled (GATEHOUSE_TLS__PLAINTEXT)"
    authorities = f"the authorities in {tls.ca_file}" if tls.ca_file else "the authorities of the system"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    # Unlike `create_default_context`, gRPC accepts authorities without all extensions of RFC 5280.
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file is None:
        client.load_default_certs()
    else:
        parse_certificates(tls.ca_file, read_pem(tls.ca_file))  # has better messages
        client.load_verify_locations(tls.ca_file)
    try:
        _handshake(client, server, name)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.lower().rstrip(".")
        if "mismatch" in reason:
            raise Problem(
                f"{certificate}: {reason}; correct GATEHOUSE_TLS__SERVER_NAME, or the names in it"
            ) from None
        raise Problem(
            f"{certificate}: {authorities} do not confirm it ({reason}); add the missing intermediate "
            "certificates to the file, or set GATEHOUSE_TLS__CA_FILE to the authority that signed it"
        ) from None
    return f"{certificate}: valid for {name}, trusted by {authorities}"


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Do a TLS handshake in memory."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in tuple(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
