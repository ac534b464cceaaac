"""Addresses in settings: hosts to listen on, targets of gRPC channels, and endpoints of collectors."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

_MAX_PORT = 65535
# Of the name resolvers in gRPC (https://github.com/grpc/grpc/blob/master/doc/naming.md).
_WITH_PORT = ("dns", "ipv4", "ipv6")
_OTHER_SCHEMES = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")


def _check_host(text: str) -> str:
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in address:
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            address = ""
    if not _is_name(address):
        raise ValueError("must be a host name or an IP address, without scheme and port")
    return text


def _check_target(text: str) -> str:
    scheme, _, rest = text.partition(":")
    if scheme in _OTHER_SCHEMES and rest:
        return text
    addresses = [text]
    if scheme in _WITH_PORT:  # such as `dns://resolver/users:50051`, `ipv4:10.0.0.1:50051,10.0.0.2:50051`
        addresses = (rest[2:].partition("/")[2] if rest.startswith("//") else rest).split(",")
    if not all(map(_is_address, addresses)):
        raise ValueError(
            "must be host:port, or a target of gRPC such as dns:///users:50051, without http:// or https://"
        )
    return text


def _check_otlp_endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and _is_address(parts.netloc)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("must be a URL such as http://collector:4317, without user and password")
    return text


def _is_address(text: str) -> bool:
    """Return whether a text is a host with or without a port."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")) or text.endswith("]"):
        host, port = text, "1"
    return _is_name(host.strip("[]")) and port.isdecimal() and int(port[:6]) <= _MAX_PORT


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable() and not set(" /@?#[]").intersection(text)


Host = Annotated[str, AfterValidator(_check_host)]
GrpcTarget = Annotated[str, AfterValidator(_check_target)]
OtlpEndpoint = Annotated[str, AfterValidator(_check_otlp_endpoint)]
