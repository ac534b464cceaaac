"""An HTTP server on loopback that receives one redirect of a browser (RFC 8252 section 7.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl, urlsplit

CALLBACK_PATH = "/callback"
HOST = "127.0.0.1"
_REQUEST_SECONDS = 10.0
_MAX_REQUEST_BYTES = 16 * 1024
_MAX_FIELDS = 20

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:1.1rem system-ui;margin:20vh auto;max-width:30rem;text-align:center}}</style>
<h1>{title}</h1><p>{text}</p></html>
"""
_DONE = _PAGE.format(title="Back to the program", text="You can close this page.")
_REFUSED = _PAGE.format(title="Not a response to this login", text="Start the login in the program again.")


@asynccontextmanager
async def loopback_redirect(
    port: int, accepts: Callable[[Mapping[str, str]], bool]
) -> AsyncIterator[tuple[str, asyncio.Future[Mapping[str, str]]]]:
    """Listen for a redirect; yield its URI and the future of its query.

    Only the first request that `accepts` accepts counts. All others are refused, and do not end the wait.

    Raises:
        OSError: The port is in use.
    """
    arrived: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = None
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                query = _query(await reader.readuntil(b"\r\n\r\n"))
        good = query is not None and not arrived.done() and accepts(query)
        with suppress(OSError):
            writer.write(_response("200 OK", _DONE) if good else _response("400 Bad Request", _REFUSED))
            writer.close()
            async with asyncio.timeout(_REQUEST_SECONDS):
                await writer.wait_closed()
        if good and query is not None and not arrived.done():
            arrived.set_result(query)

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(on_connection, HOST, port, limit=_MAX_REQUEST_BYTES)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}{CALLBACK_PATH}", arrived
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _query(request: bytes) -> Mapping[str, str] | None:
    """Return the query of a GET request of the callback, None for other requests and repeated fields."""
    method, target, _ = request.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    url = urlsplit(target)
    if method != "GET" or url.path != CALLBACK_PATH:
        return None
    pairs = parse_qsl(url.query, max_num_fields=_MAX_FIELDS, keep_blank_values=True)
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


def _response(status: str, page: str) -> bytes:
    content = page.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + content
