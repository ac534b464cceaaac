"""What all web handlers of the issuer share: bounded bodies, strict forms, errors in OAuth's JSON."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MAX_BODY_BYTES = 64 * 1024


class TooLarge(Exception):
    """A body has more than MAX_BODY_BYTES."""


def error_response(status: int, error: str, description: str = "") -> JSONResponse:
    """Makes an error answer (RFC 6749 section 5.2)."""
    body = {"error": error, **({"error_description": description} if description else {})}
    return JSONResponse(body, status, {"Cache-Control": "no-store"})


async def read_body(request: Request) -> bytes:
    """Reads a body.

    Raises:
        TooLarge: It is.
    """
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BODY_BYTES:
            raise TooLarge
    return bytes(found)


async def read_form(request: Request) -> dict[str, str] | Response:
    """Reads a form, each parameter once; the answer to give when it is none."""
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        return error_response(
            400, "invalid_request", "Content-Type must be application/x-www-form-urlencoded"
        )
    try:
        pairs = parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=50)
    except TooLarge:
        return error_response(413, "invalid_request", "Request too large")
    except ValueError:
        return error_response(400, "invalid_request", "Malformed form")
    if len(dict(pairs)) != len(pairs):
        return error_response(400, "invalid_request", "duplicated parameter")
    return dict(pairs)
