"""Metadata of calls as people write it: `name: value`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from gatehouse.settings import ConfigurationError

_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")


def parse_metadata(lines: Iterable[str]) -> tuple[tuple[str, str | bytes], ...]:
    """Return the entries of lines `name: value`. The value of a name that ends in `-bin` is base64.

    Raises:
        ConfigurationError: A line is not an entry, or its name is reserved.
    """
    return tuple(_parse_entry(line) for line in lines if line.strip())


def _parse_entry(line: str) -> tuple[str, str | bytes]:
    name, colon, value = (part.strip() for part in line.partition(":"))
    name = name.lower()
    if not colon or not _NAME.fullmatch(name):
        raise ConfigurationError("metadata: not an entry; write name: value, such as x-request-id: 17")
    if name == "authorization":
        raise ConfigurationError("metadata authorization: reserved for the access token; leave it out")
    if name.startswith("grpc-"):
        raise ConfigurationError(f"metadata {name}: reserved by gRPC; use another name")
    if not name.endswith("-bin"):
        if not _VALUE.fullmatch(value):
            raise ConfigurationError(f"metadata {name}: not printable ASCII; use a name that ends in -bin")
        return name, value
    try:
        return name, base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"metadata {name}: not base64, which names that end in -bin need") from None
