"""Read claims of a documented type; a value of another type counts as missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatehouse.oauth._names import Names
from gatehouse.oauth.errors import InvalidToken

MAX_ID_CHARS = 255
_NO_NAMES = Names()


def words(value: object) -> frozenset[str]:
    """Return the words of a space-separated string (RFC 6749 section 3.3)."""
    return frozenset(value.split(" ")) - {""} if isinstance(value, str) else frozenset()


def names(value: object) -> Names:
    """Return the strings in a list."""
    return Names(v for v in value if isinstance(v, str)) if isinstance(value, list) else _NO_NAMES


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, {} for anything else."""
    return value if isinstance(value, dict) else {}


def text(claims: Mapping[str, Any], *keys: str) -> str:
    """Return the first of `keys` that is a string, or ""."""
    for key in keys:
        value = claims.get(key)
        if isinstance(value, str):
            return value
    return ""


def subject(claims: Mapping[str, Any]) -> str:
    """Return `sub`, which RFC 9068 section 2.2 requires.

    Raises:
        InvalidToken: It is missing, not printable, or longer than OpenID Connect Core section 2 allows.
    """
    value = text(claims, "sub")
    if not value:
        raise InvalidToken("subject_missing")
    if not _is_loggable(value):
        raise InvalidToken("subject_malformed")
    return value


def client(claims: Mapping[str, Any], *keys: str) -> str:
    """Return the client id, the first of `keys` that is a string, or "".

    Raises:
        InvalidToken: It is not printable (RFC 6749 appendix A.1), or too long.
    """
    value = text(claims, *keys)
    if not _is_loggable(value):
        raise InvalidToken("client_malformed")
    return value


def _is_loggable(value: str) -> bool:
    """Return whether a log line can contain `value`, as those of authorized calls do."""
    return len(value) <= MAX_ID_CHARS and value.isprintable()
