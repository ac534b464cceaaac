"""TLS of gRPC channels: which certificate authorities to trust; plaintext must be asked for."""

from __future__ import annotations

import grpc

from gatehouse.rpc import PlaintextRefused
from gatehouse.rpc.tls import read_authorities
from gatehouse.settings import TlsSettings, is_loopback


def channel_credentials(tls: TlsSettings, target: str) -> grpc.ChannelCredentials | None:
    """Return the credentials of a channel to `target`, None for plaintext.

    Args:
        tls: The authorities to trust, and whether plaintext is allowed.
        target: Target of the channel (gRPC naming), such as `dns:///users:50051`.

    Raises:
        PlaintextRefused: Plaintext is not allowed to `target`.
        TlsError: The CA file cannot be read, or contains no certificate.
    """
    if tls.plaintext:
        if not (tls.plaintext_beyond_loopback or _is_local(target)):
            raise PlaintextRefused(
                f"plaintext to {target}, which is not loopback: use TLS, "
                "or set GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
            )
        return None
    if tls.ca_file is None:
        return grpc.ssl_channel_credentials()
    return grpc.ssl_channel_credentials(read_authorities(tls.ca_file))


def _is_local(target: str) -> bool:
    """Return whether every address of a target is on this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return True
    if scheme in {"ipv4", "ipv6"}:
        return all(is_loopback(_host(address)) for address in rest.split(","))
    return is_loopback(_host(target.removeprefix("dns:").removeprefix("///")))


def _host(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host if colon and port.isdecimal() else address
