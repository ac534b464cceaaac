"""Database URLs are read once, with the meaning that libpq and SQLAlchemy give them."""

from __future__ import annotations

import pytest

from gatehouse.settings import database_parameters


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql:///d", None, None),
        ("postgresql://a/d", "a", None),
        ("postgresql://u@a:1/d", "a", "1"),
        ("postgresql://u:p@a:1,b:2/d", "a,b", "1,2"),
        ("postgresql://u@a,b:2/d", "a,b", "5432,2"),
        ("postgresql://u@a,b/d?port=7", "a,b", "7"),
        ("postgresql://[::1]:5,[fe80::1]/d", "::1,fe80::1", "5,5432"),
        ("postgresql://%2Ftmp%2Fpg/d", "/tmp/pg", None),
        ("postgresql:///d?host=/tmp/pg&port=6", "/tmp/pg", "6"),
        ("postgresql+psycopg://u@/d?host=a:1&host=b:2", "a,b", "1,2"),
        ("postgresql://u@/d?host=a&host=b:2", "a,b", "5432,2"),
        ("postgresql://u@/d?host=a,b&port=1,2", "a,b", "1,2"),
        ("postgresql://u@/d?host=%5B::1%5D:1&host=b:2", "::1,b", "1,2"),
        ("postgresql://u@/d?host=fe80::1", "fe80::1", None),
        ("postgres://u@c/d?host=a", "a", None),
    ],
)
def test_hosts_are_read_in_both_styles(url: str, host: str | None, port: str | None) -> None:
    parameters = database_parameters(url)
    assert (parameters.get("host"), parameters.get("port")) == (host, port)


def test_all_other_parameters_are_kept() -> None:
    url = (
        "postgresql://u%40x:p%2F+w%3F@a/d%20b?sslmode=verify-full&options=-c%20geqo%3Doff&application_name=x"
        "&target_session_attrs=read-write&connect_timeout=7"
    )
    assert database_parameters(url) == {
        "user": "u@x",
        "password": "p/+w?",
        "host": "a",
        "dbname": "d b",
        "sslmode": "verify-full",
        "options": "-c geqo=off",
        "application_name": "x",
        "target_session_attrs": "read-write",
        "connect_timeout": "7",
    }


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a/d",
        "postgresql:a",
        "postgresql://a:canary/d",
        "postgresql://a:0/d",
        "postgresql://a:65536/d",
        "postgresql://[::1/d",
        "postgresql://a:1/d?port=2",
        "postgresql://a/d?sslmode",
    ],
)
def test_malformed_url_is_rejected_without_its_value(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z ]+$") as caught:
        database_parameters(url)
    assert "canary" not in str(caught.value)
