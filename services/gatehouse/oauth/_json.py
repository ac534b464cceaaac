"""JSON as a verifier must read it: one object, no repeated names, no NaN, no half characters (RFC 7493)."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def strict_object(raw: bytes) -> dict[str, Any] | None:
    """Parses a JSON object, or returns None when `raw` is anything else.

    It does not raise, because the errors of `json` carry the text that they were given.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if b"\\u" in raw:
            # A lone surrogate is no text: whoever encoded it later, for a log or a database, would fail.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
