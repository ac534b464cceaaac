"""Channels of clients: TLS, the access token of each call, retries, deadlines and trace context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.client.call_credentials import reason_of
from gatehouse.client.options import channel_options
from gatehouse.client.reloading import ReloadingChannel
from gatehouse.client.tls import channel_credentials
from gatehouse.client.token_source import TokenSource
from gatehouse.domain import DomainError
from gatehouse.oauth import OAuthError
from gatehouse.settings import FileCheck, TlsSettings


def connect(
    target: str,
    *,
    tls: TlsSettings,
    server_name: str | None = None,
    tokens: TokenSource | None = None,
    tracer: Tracer | None = None,
    deadline: float = 10.0,
    max_message_bytes: int = 4 * 1024 * 1024,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """Open a channel. Call it in a running event loop.

    Args:
        target: Target in gRPC naming: `host:port`, `dns:///name:port`, `ipv4:address:port,address:port`, ...
        tls: Certificate authorities to trust, reloaded when their file changes; without TLS only if it allows
            plaintext to this target.
        server_name: Name in the certificate of the server, if it is not that of the target.
        tokens: Source of the access token of each call. A unary call that fails with UNAUTHENTICATED is sent
            once more with another token. If there is no token, a call fails with UNAVAILABLE and is not sent.
        tracer: Tracer for client spans; None for no spans.
        deadline: Seconds, for unary calls without a deadline; streams have no default deadline.
        max_message_bytes: Largest message, in either direction.
        options: Options of gRPC that replace those of channel_options.

    Raises:
        TlsError: The CA file cannot be used, or plaintext is not allowed.
    """
    replaced = {name for name, _ in options}
    all_options = [o for o in channel_options(server_name, max_message_bytes) if o[0] not in replaced]
    all_options += options
    calls = _Calls(tracer or NoOpTracer(), deadline, tokens)
    interceptors: list[Any] = [
        _UnaryUnary(calls),
        _UnaryStream(calls),
        _StreamUnary(calls),
        _StreamStream(calls),
    ]

    def open_channel() -> grpc.aio.Channel:
        credentials = channel_credentials(tls, target)
        if credentials is None:
            return grpc.aio.insecure_channel(target, all_options, interceptors=interceptors)
        return grpc.aio.secure_channel(target, credentials, all_options, interceptors=interceptors)

    if tls.plaintext or tls.ca_file is None:
        return open_channel()
    return ReloadingChannel(open_channel, FileCheck([tls.ca_file], tls.reload_seconds))


class _Calls:
    """What the interceptors do with unary calls and with streams."""

    def __init__(self, tracer: Tracer, deadline: float, tokens: TokenSource | None) -> None:
        self._tracer = tracer
        self._deadline = deadline
        self._propagator = TraceContextTextMapPropagator()
        self._tokens = tokens
        self._finishing: set[asyncio.Task[None]] = set()

    async def unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Send a unary call; send it again if its token is rejected and there is another one."""
        details, span = self._start_span(details)
        code, call = grpc.StatusCode.CANCELLED, None
        timeout = self._deadline if details.timeout is None else details.timeout
        ends_at = time.monotonic() + timeout

        def remaining() -> float:
            return max(0.0, ends_at - time.monotonic())

        try:
            token = await self._token(timeout)
            call = await continuation(_authorized(details, remaining(), token), request)
            code = await call.code()
            if code is grpc.StatusCode.UNAUTHENTICATED and (
                token := await self._other_token(token, remaining())
            ):
                call = await continuation(_authorized(details, remaining(), token), request)
                code = await call.code()
        except asyncio.CancelledError:
            # Cancelling the task of an interceptor does not cancel the call.
            if call is not None:
                call.cancel()
            raise
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        else:
            return call
        finally:
            _end_span(span, code)

    async def stream(self, continuation: Callable[..., Any], details: Any, argument: Any) -> Any:
        """Start a call that streams requests, responses or both."""
        details, span = self._start_span(details)
        try:
            token = await self._token(details.timeout)
            call = await continuation(_authorized(details, details.timeout, token), argument)
        except BaseException as error:
            code = error.code() if isinstance(error, grpc.aio.AioRpcError) else grpc.StatusCode.CANCELLED
            _end_span(span, code)
            raise
        call.add_done_callback(lambda done: self._finish_stream(span, done, token))
        return call

    def _finish_stream(self, span: Span, call: Any, token: str) -> None:
        async def finish() -> None:
            code = await call.code()
            if code is grpc.StatusCode.UNAUTHENTICATED and self._tokens is not None:
                self._tokens.invalidate(token)  # a stream is not sent again; the next call gets another token
            _end_span(span, code)

        task = asyncio.get_running_loop().create_task(finish())
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _start_span(self, details: grpc.aio.ClientCallDetails) -> tuple[grpc.aio.ClientCallDetails, Span]:
        method: str | bytes = details.method  # bytes at run time, str in the stubs
        name = (method if isinstance(method, str) else method.decode()).lstrip("/")
        span = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes={"rpc.system.name": "grpc", "rpc.method": name}
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return _add_metadata(details, details.timeout, *carrier.items()), span

    async def _token(self, seconds: float | None) -> str:
        """Return the token of a call, an empty string if the channel has no token source.

        Raises:
            grpc.aio.AioRpcError: UNAVAILABLE if the source fails, with the error of Gatehouse as its cause;
                DEADLINE_EXCEEDED if it takes longer than `seconds`.
        """
        if self._tokens is None:
            return ""
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                return await self._tokens.token()
        except Exception as error:  # noqa: BLE001 - the text of foreign errors may contain secrets
            ours = error if isinstance(error, OAuthError | DomainError) else None
            code = grpc.StatusCode.DEADLINE_EXCEEDED if timer.expired() else grpc.StatusCode.UNAVAILABLE
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(code, nothing, nothing, reason_of(error)) from ours

    async def _other_token(self, rejected: str, seconds: float) -> str:
        """Return another token than the rejected one, an empty string if there is none."""
        if self._tokens is None:
            return ""
        self._tokens.invalidate(rejected)
        token = await self._token(seconds)
        return "" if token == rejected else token


def _end_span(span: Span, code: grpc.StatusCode) -> None:
    if span.is_recording():
        span.set_attribute("rpc.response.status_code", code.name)
        if code is not grpc.StatusCode.OK:
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def _add_metadata(
    details: Any, timeout: float | None, *entries: tuple[str, str]
) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *entries)
    return grpc.aio.ClientCallDetails(
        details.method, timeout, metadata, details.credentials, details.wait_for_ready
    )


def _authorized(details: Any, timeout: float | None, token: str) -> grpc.aio.ClientCallDetails:
    return _add_metadata(details, timeout, *([("authorization", f"Bearer {token}")] if token else []))


# grpc.aio takes an interceptor for one RPC type only, so there is a class for each.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._calls.unary(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._calls.stream(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._calls.stream(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._calls.stream(continuation, client_call_details, request_iterator)
