"""Channels of synchronous clients: TLS, the token of each call, retries, deadlines and trace context."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.background import BackgroundLoop
from gatehouse.client.call_credentials import reason_of
from gatehouse.client.options import channel_options
from gatehouse.client.tls import channel_credentials
from gatehouse.client.token_source import CachingTokenSource, TokenSource
from gatehouse.settings import TlsSettings


def create_oauth2_channel(
    target: str,
    tokens: TokenSource,
    *,
    background: BackgroundLoop,
    tls: TlsSettings,
    server_name: str | None = None,
    deadline: float = 10.0,
    max_message_bytes: int = 4 * 1024 * 1024,
) -> grpc.Channel:
    """Open a synchronous channel whose calls carry an access token; `connect` is its asyncio form.

    Args:
        target: Target in gRPC naming: `host:port`, `dns:///name:port`, `ipv4:address:port,address:port`, ...
        tokens: Source of the access token of each call. A unary call that fails with UNAUTHENTICATED is sent
            once more with another token; a stream is not. If there is no token, a call fails with UNAVAILABLE
            and is not sent.
        background: Runs the token source.
        tls: Certificate authorities to trust; without TLS only if it allows plaintext to this target.
        server_name: Name in the certificate of the server, if it is not that of the target.
        deadline: Seconds, for unary calls without a deadline; streams have no default deadline.
        max_message_bytes: Largest message, in either direction.

    Raises:
        TlsError: The CA file cannot be used, or plaintext is not allowed.
    """
    credentials = channel_credentials(tls, target)
    options = channel_options(server_name, max_message_bytes)
    if credentials is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, credentials, options)
    return grpc.intercept_channel(channel, _Interceptor(tokens, background, deadline))


class TokenUnavailable(grpc.RpcError):
    """There is no access token, so the call was not sent."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE, or DEADLINE_EXCEEDED if the token did not arrive in time."""
        return self._code

    def details(self) -> str:
        """Return why there is no token."""
        return str(self)


class _Details(NamedTuple):
    """grpc.ClientCallDetails, which has no constructor."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, Any], ...]
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds token, deadline and trace context to each call, and sends a rejected unary call once more.

    The token is metadata, not call credentials, because the interceptor must know which one was rejected.
    """

    def __init__(self, tokens: TokenSource, background: BackgroundLoop, deadline: float) -> None:
        self._tokens, self._background, self._deadline = tokens, background, deadline
        self._cached = tokens if isinstance(tokens, CachingTokenSource) else None
        self._propagator = TraceContextTextMapPropagator()

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryUnaryClientInterceptor. It waits for the status, also for `future()`."""
        timeout = client_call_details.timeout
        ends_at = time.monotonic() + (self._deadline if timeout is None else timeout)

        def send(token: str) -> Any:
            remaining = max(0.0, ends_at - time.monotonic())
            return continuation(self._authorized(client_call_details, remaining, token), request)

        token = self._token(ends_at)
        call = send(token)
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            self._invalidate(token)
            if (other := self._token(ends_at)) != token:
                call = send(other)
        return call

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        return self._stream(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamUnaryClientInterceptor. It waits for the status, also for `future()`."""
        call, token = self._start(continuation, client_call_details, request_iterator)
        self._drop_rejected(call, token)
        return call

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamStreamClientInterceptor."""
        return self._stream(continuation, client_call_details, request_iterator)

    def _stream(self, continuation: Callable[..., Any], details: Any, argument: Any) -> Any:
        call, token = self._start(continuation, details, argument)
        if not call.add_callback(lambda: self._drop_rejected(call, token)):
            self._drop_rejected(call, token)
        return call

    def _start(self, continuation: Callable[..., Any], details: Any, argument: Any) -> tuple[Any, str]:
        """Start a call that streams, and return it with its token."""
        ends_at = None if details.timeout is None else time.monotonic() + details.timeout
        token = self._token(ends_at)
        remaining = None if ends_at is None else max(0.0, ends_at - time.monotonic())
        return continuation(self._authorized(details, remaining, token), argument), token

    def _drop_rejected(self, call: Any, token: str) -> None:
        """Let the next call get another token if this one was rejected; a stream is not sent again."""
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            self._invalidate(token)

    def _token(self, ends_at: float | None) -> str:
        """Return the token of a call that must end at `ends_at`, in seconds of the monotonic clock.

        Raises:
            TokenUnavailable: The source failed, or took too long.
        """
        # A call needs 250 us of CPU time; by way of the thread of the background loop, it would need 355.
        if self._cached is not None and (token := self._cached.current()):
            return token
        asking = None
        try:
            asking = self._background.submit(self._tokens.token())
            return asking.result(None if ends_at is None else max(0.0, ends_at - time.monotonic()))
        except (Exception, CancelledError) as error:  # noqa: BLE001 - sources of others raise anything
            is_late = isinstance(error, TimeoutError) and asking is not None and asking.cancel()
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.UNAVAILABLE
            raise TokenUnavailable(code, reason_of(error)) from None

    def _invalidate(self, token: str) -> None:
        async def invalidate() -> None:
            self._tokens.invalidate(token)

        self._background.run(invalidate())

    def _authorized(self, details: Any, timeout: float | None, token: str) -> _Details:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        metadata = (*(details.metadata or ()), *carrier.items(), ("authorization", f"Bearer {token}"))
        return _Details(
            details.method,
            timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
