"""Metadata as people write it."""

from __future__ import annotations

import pytest

from gatehouse.client.metadata import parse_metadata
from gatehouse.settings import ConfigurationError


def test_lines_become_entries() -> None:
    lines = ["X-Tenant: 7", "", "  a : b: c ", "empty:", "blob-bin: AP8="]
    assert parse_metadata(lines) == (("x-tenant", "7"), ("a", "b: c"), ("empty", ""), ("blob-bin", b"\0\xff"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no colon", "not an entry"),
        (": value", "not an entry"),
        ("a b: c", "not an entry"),
        (":path: /x", "not an entry"),
        ("é: c", "not an entry"),
        ("Authorization: Bearer x", "reserved for the access token"),
        ("grpc-timeout: 1S", "reserved by gRPC"),
        ("a: é", "not printable ASCII"),
        ("a: b\x00", "not printable ASCII"),
        ("a-bin: é", "not base64"),
        ("a-bin: A", "not base64"),
    ],
)
def test_line_that_is_no_entry_is_refused_without_its_value(line: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        parse_metadata([line])
    assert "Bearer" not in str(caught.value)
