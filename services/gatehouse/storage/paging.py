"""Keyset paging (AIP-158): a token names the last row of a page, and belongs to one filter and order."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gatehouse.domain import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
Key = tuple[str | int, ...]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of rows, and the token of the next one, "" at the end."""

    rows: Sequence[R]
    next_page_token: str


def page_size(asked: int) -> int:
    """Returns the size of a page: the default for 0, at most the maximum."""
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _fingerprint(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def write_page_token(query: str, key: Key) -> str:
    """Makes the token of the page after the row with `key`.

    Args:
        query: All that the token belongs to, such as filter and order.
        key: Sort values of the last row.
    """
    raw = json.dumps([_fingerprint(query), *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read_page_token(query: str, token: str, shape: tuple[type, ...]) -> Key | None:
    """Reads a token; None for "".

    Args:
        query: As it was for `write_page_token`.
        token: The token.
        shape: Types of the key's values.

    Raises:
        InvalidArgument: It is no token, or belongs to another filter or order.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        fingerprint, *values = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        raise _not_a_token() from None
    if [type(v) for v in values] != list(shape) or not isinstance(fingerprint, str):
        raise _not_a_token()
    # JSON can write what no text of PostgreSQL can be: NUL, and halves of a character.
    if any(isinstance(v, str) and _is_no_text(v) for v in values):
        raise _not_a_token()
    if fingerprint != _fingerprint(query):
        raise InvalidArgument(
            "page_token", "PAGE_TOKEN_MISMATCH", "the page token belongs to another filter or order"
        )
    return tuple(values)


def _is_no_text(value: str) -> bool:
    return any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)


def _not_a_token() -> InvalidArgument:
    return InvalidArgument(
        "page_token", "PAGE_TOKEN_MALFORMED", "the page token is none that this server made"
    )
