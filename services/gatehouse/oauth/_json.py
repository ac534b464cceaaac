"""Strict JSON (RFC 7493): one object, no repeated names, no NaN, no lone surrogates."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# Code that handles claims may recurse, so the depth is bounded far below the recursion limit of Python.
_MAX_DEPTH = 128
# A key set of 64 KiB has fewer brackets.
_MAX_BRACKETS = 1000
_BRACKET = re.compile(rb"[\[\]{}]")


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def strict_object(raw: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; return None if `raw` is anything else.

    It does not raise, because exceptions of `json` contain the text that was parsed.
    """
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets > _MAX_BRACKETS or (brackets > _MAX_DEPTH and _depth(raw) > _MAX_DEPTH):
        return None
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if b"\\u" in raw:
            # A lone surrogate cannot be encoded later, for a log line or the database.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _depth(raw: bytes) -> int:
    """Return the depth of a document; brackets in strings count too."""
    depth = deepest = 0
    for bracket in _BRACKET.finditer(raw):
        depth += 1 if bracket[0] in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest
