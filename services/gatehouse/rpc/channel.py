"""A client's channel: TLS, a token source as call credentials, retries, deadlines and trace context."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.oauth import OAuthError, TokenSource
from gatehouse.rpc.tls import ClientTls

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


class _Credentials(grpc.AuthMetadataPlugin):
    """Call credentials out of a TokenSource (gRPC asks in a thread of its own)."""

    def __init__(self, tokens: TokenSource, loop: asyncio.AbstractEventLoop) -> None:
        self._tokens = tokens
        self._loop = loop
        self.last = ""

    def __call__(self, _: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        def answer(future: Any) -> None:
            try:
                self.last = future.result()
            except Exception as error:  # noqa: BLE001 - gRPC waits for an answer, whatever it is
                text = str(error) if isinstance(error, OAuthError) else type(error).__name__
                callback((), RuntimeError(f"no access token: {text}"))
                return
            callback((("authorization", f"Bearer {self.last}"),), None)

        asyncio.run_coroutine_threadsafe(_token(self._tokens), self._loop).add_done_callback(answer)


async def _token(tokens: TokenSource) -> str:
    return await tokens.token()


class _Outgoing:
    """What happens to every outgoing call, whatever its shape."""

    def __init__(
        self,
        tracer: Tracer,
        deadline: float,
        tokens: TokenSource | None,
        credentials: _Credentials | None,
    ) -> None:
        self._tracer = tracer
        self._deadline = deadline
        self._propagator = TraceContextTextMapPropagator()
        self._tokens = tokens
        self._credentials = credentials
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
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
        timeout = self._deadline if details.timeout is None else details.timeout
        return (
            grpc.aio.ClientCallDetails(
                details.method, timeout, metadata, details.credentials, details.wait_for_ready
            ),
            span,
        )

    @staticmethod
    def end(span: Span, code: grpc.StatusCode) -> None:
        if span.is_recording():
            span.set_attribute("rpc.response.status_code", code.name)
            if code is not grpc.StatusCode.OK:
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _end_later(self, span: Span, call: Any) -> None:
        """Ends the span of a call that is over; its code is to be had from a coroutine only."""

        async def finish() -> None:
            self.end(span, await call.code())

        task = asyncio.get_running_loop().create_task(finish())
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def drop_token(self) -> bool:
        """Drops the token that was just refused; whether there is another to try."""
        if self._tokens is None or self._credentials is None:
            return False
        self._tokens.invalidate(self._credentials.last)
        return True

    async def stream(self, continuation: Callable[..., Any], details: Any, argument: Any) -> Any:
        details, span = self.begin(details)
        try:
            call = await continuation(details, argument)
        except BaseException:
            self.end(span, grpc.StatusCode.CANCELLED)
            raise
        call.add_done_callback(lambda done: self._end_later(span, done))
        return call


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details, span = self._outgoing.begin(client_call_details)
        code, call = grpc.StatusCode.CANCELLED, None
        try:
            call = await continuation(details, request)
            code = await call.code()
            if code is grpc.StatusCode.UNAUTHENTICATED and self._outgoing.drop_token():
                call = await continuation(details, request)
                code = await call.code()
        except asyncio.CancelledError:
            # Only this layer was cancelled; the call itself would go on.
            if call is not None:
                call.cancel()
            raise
        else:
            return call
        finally:
            self._outgoing.end(span, code)


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
        target: As gRPC names it: `host:port`, `dns:///name:port`, ...
        tls: Whom to trust.
        tokens: Gives the access token of each call; a unary call that is answered with UNAUTHENTICATED is
            sent once more with a fresh one.
        tracer: Makes client spans; None makes none.
        deadline: Seconds, for unary calls that name none.
        max_message_bytes: Greatest size of a message, both ways.

    Raises:
        TlsError: The trusted certificates cannot be read, or plaintext was not asked for.
    """
    channel_credentials = tls.credentials(target)
    credentials: _Credentials | None = None
    if tokens is not None:
        credentials = _Credentials(tokens, asyncio.get_running_loop())
        # Local credentials are gRPC's way to carry call credentials over plaintext, and only on loopback.
        channel_credentials = grpc.composite_channel_credentials(
            channel_credentials or grpc.local_channel_credentials(),
            grpc.metadata_call_credentials(credentials, name="token-source"),
        )
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
    outgoing = _Outgoing(tracer or NoOpTracer(), deadline, tokens, credentials)
    interceptors: list[Any] = [
        _UnaryUnary(outgoing),
        _UnaryStream(outgoing),
        _StreamUnary(outgoing),
        _StreamStream(outgoing),
    ]
    if channel_credentials is None:
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, channel_credentials, options, interceptors=interceptors)
