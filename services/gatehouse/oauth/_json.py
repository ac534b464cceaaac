"""Strict JSON (RFC 7493): one object, no repeated names, no NaN, no lone surrogates."""

from __future__ import annotations

import json
from typing import Any, NoReturn

# Brackets in a document, and so a bound on its depth. A key set of 64 KiB has fewer. Up to Python 3.12 the
# recursion limit of the interpreter refuses deep documents; from 3.13 on it is far higher.
_MAX_BRACKETS = 1000


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
    if raw.count(b"{") + raw.count(b"[") > _MAX_BRACKETS:
        return None
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if b"\\u" in raw:
            # A lone surrogate cannot be encoded later, for a log line or the database.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
