"""The issuer of the test bed: its state can be reset, its answers changed, its requests recorded."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatehouse_testbed.bed.clock import MovableClock
from gatehouse_testbed.bed.endpoints import endpoint_of
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import IssuerFault
from gatehouse_testbed.bed.records import IssuerRequest
from gatehouse_testbed.issuer.app import create_app
from gatehouse_testbed.issuer.keys import ALGORITHMS, SigningKeys
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.issuer.tokens import Tokens

MAX_REQUESTS = 10_000
_OAUTH_ERRORS = (400, 401, 403)
_HTML = b"<!doctype html><title>injected fault</title>"


class IssuerApp:
    """ASGI application of the issuer.

    Args:
        realm: Its realm, which is never changed: the issuer works on a copy.
        base_url: URL of the server for clients.
        clock: Its clock.
        faults: The faults that are in effect.
        local_url: See create_app.
    """

    def __init__(
        self,
        realm: Realm,
        base_url: str,
        clock: MovableClock,
        faults: Faults,
        local_url: str | None = None,
    ) -> None:
        self._realm = realm
        self._base_url = base_url
        self._local_url = local_url
        self._clock = clock
        self._faults = faults
        self._keys = SigningKeys.create()
        self.requests: deque[IssuerRequest] = deque(maxlen=MAX_REQUESTS)
        self.reset()

    def reset(self) -> None:
        """Forget sessions, revocations, and changes of users, roles and keys."""
        self._current_keys = self._keys.copy()
        self._app: Starlette = create_app(
            self._realm.model_copy(deep=True),
            base_url=self._base_url,
            local_url=self._local_url,
            clock=self._clock.issuer_time,
            keys=self._current_keys,
        )
        self.requests.clear()

    def rotate_keys(self, *, overlap: bool) -> None:
        """Sign with new keys.

        Args:
            overlap: Whether the keys that signed until now are still published and verify tokens.
        """
        for key in self._current_keys.all():
            if key.active and overlap:
                key.active = False
            else:
                self._current_keys.remove(key)
        for algorithm in ALGORITHMS:
            self._current_keys.add(algorithm, 100)

    @property
    def tokens(self) -> Tokens:
        """The tokens of the realm."""
        tokens: Tokens = self._app.state.tokens
        return tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        endpoint = endpoint_of(path)
        request = IssuerRequest(
            endpoint=endpoint,
            method=scope["method"],
            path=path,
            status=None,
            error="",
            user_agent=next((v.decode("latin-1") for k, v in scope["headers"] if k == b"user-agent"), ""),
            received_at=self._clock.time(),
        )
        self.requests.append(request)

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            elif request.status in _OAUTH_ERRORS:
                request.error = _error_of(message.get("body", b""))
            await send(message)

        matching = (f for f in self._faults.of(IssuerFault) if f.matches(endpoint) and f.happens())
        fault = next(matching, None)
        if fault is None:
            await self._app(scope, receive, record)
            return
        await fault.wait(fault.delay_seconds)
        if fault.hang:
            await fault.wait()
            await self._app(scope, receive, record)
        elif fault.refuse:
            await _close_connection(receive, send)
        else:
            await _answer_with(fault, self._app, scope, receive, record)


def _error_of(body: bytes) -> str:
    """Return what the body of a response says about an error (RFC 6749 section 5.2)."""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    members = ("error", "error_description")
    return ": ".join(str(content[m]) for m in members if m in content) if isinstance(content, dict) else ""


async def _close_connection(receive: Receive, send: Any) -> None:
    # ASGI has no way to close a connection without an answer; this is uvicorn's.
    send.__self__.transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_with(fault: IssuerFault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    if fault.status is not None or fault.html:
        headers = [(b"content-type", b"text/html"), (b"content-length", str(len(_HTML)).encode())]
        if fault.retry_after is not None:
            headers.append((b"retry-after", str(fault.retry_after).encode()))
        await send({"type": "http.response.start", "status": fault.status or 200, "headers": headers})
        await send({"type": "http.response.body", "body": _HTML})
        return
    if not fault.response:
        await app(scope, receive, send)
        return
    start: Message = {}
    body = bytearray()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, keep)
    changed = _replace_members(bytes(body), fault.response)
    kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    await send({**start, "headers": [*kept, (b"content-length", str(len(changed)).encode())]})
    await send({"type": "http.response.body", "body": changed})


def _replace_members(body: bytes, members: dict[str, Any]) -> bytes:
    """Return a JSON object with other members; anything else, such as no content, as it is."""
    try:
        content = json.loads(body)
    except ValueError:
        return body
    return json.dumps(content | members).encode() if isinstance(content, dict) else body
