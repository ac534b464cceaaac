"""Bounded request bodies, strict forms, and errors in the JSON of OAuth."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse

MAX_BODY_BYTES = 64 * 1024


class Refusal(Exception):
    """Ends a request with an error response.

    Args:
        status: HTTP status.
        error: Error code.
        description: For people.
    """

    def __init__(self, status: int, error: str, description: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.description = description

    def response(self) -> JSONResponse:
        """Return the error response (RFC 6749 section 5.2)."""
        body = {"error": self.error} | ({"error_description": self.description} if self.description else {})
        return JSONResponse(body, self.status, {"Cache-Control": "no-store"})


async def read_body(request: Request) -> bytes:
    """Read a body.

    Raises:
        Refusal: It has more than MAX_BODY_BYTES.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, "invalid_request", "Request too large")
    return bytes(body)


async def read_json(request: Request) -> Any:
    """Read a body with JSON.

    Raises:
        Refusal: It is not JSON, or too large.
    """
    try:
        return json.loads(await read_body(request))
    except ValueError:
        raise Refusal(400, "unknown_error", "Cannot parse the JSON") from None


async def read_form(request: Request) -> dict[str, str]:
    """Return the parameters of a form, each of which may occur once.

    Raises:
        Refusal: It is invalid or too large.
    """
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        raise Refusal(400, "invalid_request", "Content-Type must be application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Refusal(400, "invalid_request", "Malformed form") from None
    if len(dict(pairs)) != len(pairs):
        raise Refusal(400, "invalid_request", "duplicated parameter")
    return dict(pairs)
