"""TLS of gRPC channels: which certificate authorities to trust; plaintext must be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from gatehouse.oauth import is_loopback
from gatehouse.rpc import PlaintextRefused
from gatehouse.rpc.tls import parse_certificates, read_pem


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom a channel trusts.

    Attributes:
        ca_file: PEM certificates; None trusts what the system trusts.
        plaintext: Whether plaintext is wanted.
        plaintext_beyond_loopback: Whether it is wanted to other addresses than loopback too.
        server_name: Name that the certificate must have, when not the target's.
    """

    ca_file: Path | None = None
    plaintext: bool = False
    plaintext_beyond_loopback: bool = False
    server_name: str | None = None

    def credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Returns the credentials towards `target`; None for plaintext.

        Raises:
            PlaintextRefused: Plaintext was not asked for, or not for `target`.
            TlsError: The file cannot be read, or holds no certificate.
        """
        if self.plaintext:
            if not (self.plaintext_beyond_loopback or _is_local(target)):
                raise PlaintextRefused(
                    f"plaintext to {target}, which is not loopback: use TLS, "
                    "or set GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
                )
            return None
        if self.ca_file is None:
            return grpc.ssl_channel_credentials()
        content = read_pem(self.ca_file)
        parse_certificates(self.ca_file, content)
        return grpc.ssl_channel_credentials(content)


def _is_local(target: str) -> bool:
    """Whether every address of a channel's target (gRPC naming) is on this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return True
    if scheme in {"ipv4", "ipv6"}:
        return all(is_loopback(_host(address)) for address in rest.split(","))
    return is_loopback(_host(target.removeprefix("dns:").removeprefix("///")))


def _host(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host if colon and port.isdecimal() else address
