"""A client's channel: TLS, the access token of each call, retries, deadlines and trace context."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.client.tls import ClientTls
from gatehouse.client.token_source import TokenSource
from gatehouse.oauth import OAuthError

# Only UNAVAILABLE is safe to send again whatever the RPC does: the server has not begun with it.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)


class _Outgoing:
    """What happens to every outgoing call, whatever its shape."""

    def __init__(self, tracer: Tracer, deadline: float, tokens: TokenSource | None) -> None:
        self._tracer = tracer
        self._deadline = deadline
        self._propagator = TraceContextTextMapPropagator()
        self._tokens = tokens
        self._finishing: set[asyncio.Task[None]] = set()

    def begin(self, details: grpc.aio.ClientCallDetails) -> tuple[grpc.aio.ClientCallDetails, Span]:
        method: str | bytes = details.method  # bytes in fact, str in the stubs
        name = method if isinstance(method, str) else method.decode()
        span = self._tracer.start_span(
            name.lstrip("/"),
            kind=SpanKind.CLIENT,
            attributes={"rpc.system.name": "grpc", "rpc.method": name.lstrip("/")},
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return _with(details, details.timeout, *carrier.items()), span

    @staticmethod
    def end(span: Span, code: grpc.StatusCode) -> None:
        if span.is_recording():
            span.set_attribute("rpc.response.status_code", code.name)
            if code is not grpc.StatusCode.OK:
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    async def token(self, seconds: float | None) -> str:
        """Returns the token of one call, "" where the channel has none to send.

        Raises:
            grpc.aio.AioRpcError: UNAVAILABLE, there is none to be had; DEADLINE_EXCEEDED, not within
                `seconds`.
        """
        if self._tokens is None:
            return ""
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                return await self._tokens.token()
        except Exception as error:  # noqa: BLE001 - its text may hold anything, unless it is one of ours
            text = str(error) if isinstance(error, OAuthError) else type(error).__name__
            late = timer.expired()
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.UNAVAILABLE
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(code, nothing, nothing, f"no access token: {text}") from None

    async def fresh_token(self, refused: str, seconds: float) -> str:
        """Returns another token than the one that was refused, "" when there is no other."""
        if self._tokens is None:
            return ""
        self._tokens.invalidate(refused)
        fresh = await self.token(seconds)
        return "" if fresh == refused else fresh

    async def unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        details, span = self.begin(details)
        code, call = grpc.StatusCode.CANCELLED, None
        timeout = self._deadline if details.timeout is None else details.timeout
        ends_at = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, ends_at - time.monotonic())

        try:
            token = await self.token(timeout)
            call = await continuation(_authorized(details, left(), token), request)
            code = await call.code()
            if code is grpc.StatusCode.UNAUTHENTICATED and (token := await self.fresh_token(token, left())):
                call = await continuation(_authorized(details, left(), token), request)
                code = await call.code()
        except asyncio.CancelledError:
            # Only this layer was cancelled; the call itself would go on.
            if call is not None:
                call.cancel()
            raise
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        else:
            return call
        finally:
            self.end(span, code)

    async def stream(self, continuation: Callable[..., Any], details: Any, argument: Any) -> Any:
        details, span = self.begin(details)
        try:
            token = await self.token(details.timeout)
            call = await continuation(_authorized(details, details.timeout, token), argument)
        except BaseException as error:
            code = error.code() if isinstance(error, grpc.aio.AioRpcError) else grpc.StatusCode.CANCELLED
            self.end(span, code)
            raise
        call.add_done_callback(lambda done: self._finish_later(span, done, token))
        return call

    def _finish_later(self, span: Span, call: Any, token: str) -> None:
        """Ends the span of a stream that is over; its code is to be had from a coroutine only."""

        async def finish() -> None:
            code = await call.code()
            if code is grpc.StatusCode.UNAUTHENTICATED and self._tokens is not None:
                self._tokens.invalidate(token)  # nothing is sent again; the next call gets another token
            self.end(span, code)

        task = asyncio.get_running_loop().create_task(finish())
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)


def _with(details: Any, timeout: float | None, *entries: tuple[str, str]) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *entries)
    return grpc.aio.ClientCallDetails(
        details.method, timeout, metadata, details.credentials, details.wait_for_ready
    )


def _authorized(details: Any, timeout: float | None, token: str) -> grpc.aio.ClientCallDetails:
    return _with(details, timeout, *([("authorization", f"Bearer {token}")] if token else []))


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._outgoing.unary(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._outgoing.stream(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        return await self._outgoing.stream(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        return await self._outgoing.stream(continuation, client_call_details, request_iterator)


def connect(
    target: str,
    *,
    tls: ClientTls,
    tokens: TokenSource | None = None,
    tracer: Tracer | None = None,
    deadline: float = 10.0,
    max_message_bytes: int = 4 * 1024 * 1024,
) -> grpc.aio.Channel:
    """Makes a channel to `target`; to be called where the event loop runs.

    Args:
        target: As gRPC names it: `host:port`, `dns:///name:port`, `ipv4:address:port,address:port`, ...
        tls: Whom to trust. A token goes over TLS, or over the plaintext that `tls` asks for, and over
            nothing else.
        tokens: Gives the access token of each call; a unary call that is answered with UNAUTHENTICATED is
            sent once more with a fresh one. Without a token a call ends with UNAVAILABLE, unsent.
        tracer: Makes client spans; None makes none.
        deadline: Seconds, for unary calls that name none; streams have none of their own.
        max_message_bytes: Greatest size of a message, both ways.

    Raises:
        TlsError: The trusted certificates cannot be read, or plaintext was not asked for.
    """
    credentials = tls.credentials(target)
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    outgoing = _Outgoing(tracer or NoOpTracer(), deadline, tokens)
    interceptors: list[Any] = [
        _UnaryUnary(outgoing),
        _UnaryStream(outgoing),
        _StreamUnary(outgoing),
        _StreamStream(outgoing),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, credentials, options, interceptors=interceptors)
