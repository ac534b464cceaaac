"""Strict and bounded query strings and forms."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from gatehouse_console.problems import Problem

MAX_BODY_BYTES = 256 * 1024
_MAX_FIELDS = 1000


def read_query(request: Request) -> Mapping[str, str]:
    """Return the parameters of a URL, each of which may occur once.

    Raises:
        Problem: One occurs twice, or there are too many.
    """
    return _parse(request.scope["query_string"])


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form, each of which may occur once.

    Raises:
        Problem: The body is not a form, is too large, or has a field twice.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Problem(415, "Not a form", "Send the form of a page of the console.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Problem(413, "Too large", f"Forms may have {MAX_BODY_BYTES // 1024} KiB. Send less.")
    return _parse(bytes(body))


def _parse(encoded: bytes) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise Problem(400, "Malformed request", "Open the page again, and send its form again.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Problem(400, "Malformed request", "A field occurs twice. Open the page again.")
    return fields
