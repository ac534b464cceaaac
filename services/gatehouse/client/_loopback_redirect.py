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
<meta name="viewport" content="width=device-width">
<style>
:root{{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1d2329;--soft:#5b6670}}
@media(prefers-color-scheme:dark){{:root{{--page:#14181c;--card:#1e2429;--text:#e8ecef;--soft:#a3aeb8}}}}
body{{background:var(--page);color:var(--text);font:1.05rem/1.5 system-ui,sans-serif;margin:0;
display:grid;place-items:center;min-height:100vh}}
main{{background:var(--card);border-radius:1rem;box-shadow:0 2px 16px #0002;margin:1rem;max-width:26rem;
padding:2.5rem;text-align:center}}
.mark{{color:{color};font-size:3rem;line-height:1}}h1{{font-size:1.4rem;margin:.8rem 0 .4rem}}
p{{color:var(--soft);margin:0}}
</style>
<main><div class="mark" aria-hidden="true">{mark}</div><h1>{title}</h1><p>{text}</p></main></html>
"""
_DONE = _PAGE.format(
    mark="&#10003;",
    color="#2e9e5b",
    title="Back to the program",
    text="It has received your login. You can close this page.",
)
_DECLINED = _PAGE.format(
    mark="&#10007;",
    color="#d04437",
    title="You are not logged in",
    text="The program says why. You can close this page.",
)
_REFUSED = _PAGE.format(
    mark="&#33;",
    color="#c77700",
    title="Not a response to this login",
    text="Start the login in the program again. You can close this page.",
)


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
            page = _DECLINED if "error" in (query or {}) else _DONE
            writer.write(_response("200 OK", page) if good else _response("400 Bad Request", _REFUSED))
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
