"""Call any RPC by its descriptor, and report how the call ended."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from gatehouse.client.channel import connect
from gatehouse.client.profile import Profile
from gatehouse.client.token_source import TokenSource
from gatehouse.settings import TlsSettings

_STATUS_SECONDS = 1.0

Entries = tuple[tuple[str, str | bytes], ...]
"""Metadata of a call."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: Status code.
        message: Status message.
        reason: Reason of the ErrorInfo detail, "" if there is none.
        challenge: Value of `www-authenticate`, "" if there is none.
        violations: Field and description of each violation in the BadRequest detail.
        responses: The responses.
        details: The details of the status, each a `google.protobuf.Any`.
        headers: Metadata that the server has sent before the responses.
        trailers: Metadata that the server has sent with the status.
    """

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    challenge: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    responses: tuple[Any, ...] = field(default=(), repr=False)
    details: tuple[Any, ...] = field(default=(), repr=False)
    headers: Entries = field(default=(), repr=False)
    trailers: Entries = field(default=(), repr=False)


def new_trace() -> tuple[str, str]:
    """Return the id of a new sampled trace and its `traceparent` (W3C Trace Context level 2)."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


@asynccontextmanager
async def open_channel(
    profile: Profile, service: str, tokens: TokenSource | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel to a service of a profile; without `tokens` it sends none."""
    tls = TlsSettings(ca_file=profile.ca_file, plaintext=profile.plaintext)
    target, name = profile.targets[service], profile.server_name
    async with connect(target, tls=tls, server_name=name, tokens=tokens) as channel:
        yield channel


async def call_each(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Any] | AsyncIterable[Any],
    on_response: Callable[[Any], None],
    *,
    token: str | None = None,
    limit: int = 0,
    timeout: float | None = 10.0,
    metadata: Iterable[tuple[str, str | bytes]] = (),
) -> Outcome:
    """Call an RPC of any type and pass on each response when it arrives.

    Args:
        channel: A channel to the service.
        method: The RPC.
        requests: The requests; one for an RPC that does not stream them. Bytes are sent as they are.
        on_response: Called with each response.
        token: Access token to send.
        limit: Number of responses after which to cancel a stream; 0 for no limit.
        timeout: Deadline in seconds, None for no deadline.
        metadata: Further metadata to send.

    Returns:
        How the call ended, without the responses.
    """
    if token is not None:
        metadata = (*metadata, ("authorization", f"Bearer {token}"))
    call = _start(channel, method, requests, tuple(metadata), timeout)
    status = _ServerStatus(call)
    try:
        async for response in _responses(call, method, limit):
            on_response(response)
    except grpc.aio.AioRpcError as error:
        return await status.outcome(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            call.cancel()
            raise
        # Not this task but the call was cancelled, because its requests failed.
        return Outcome(grpc.StatusCode.CANCELLED, "the call was cancelled")
    headers, trailers = _result(call.initial_metadata()), _result(call.trailing_metadata())
    return Outcome(grpc.StatusCode.OK, headers=_entries(headers), trailers=_entries(trailers))


async def call_once(
    channel: grpc.aio.Channel, method: MethodDescriptor, requests: Sequence[Any], **options: Any
) -> Outcome:
    """Call an RPC and return how it ended, with the responses if it succeeded; `options` as in call_each."""
    responses: list[Any] = []
    outcome = await call_each(channel, method, requests, responses.append, **options)
    return replace(outcome, responses=tuple(responses)) if outcome.code is grpc.StatusCode.OK else outcome


def _start(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Any] | AsyncIterable[Any],
    metadata: Sequence[tuple[str, str | bytes]],
    timeout: float | None,
) -> Any:
    open_stub: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    stub = open_stub(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=_serialize,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    argument: Any = requests
    if isinstance(requests, Sequence):
        argument = list(requests) if method.client_streaming else requests[0]
    return stub(argument, metadata=metadata, timeout=timeout)


def _serialize(request: Any) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())


async def _responses(call: Any, method: MethodDescriptor, limit: int) -> AsyncIterator[Any]:
    """Yield the responses of a call, and cancel it after `limit` of them."""
    if not method.server_streaming:
        yield await call
        return
    count = 0
    async for response in call:
        yield response
        count += 1
        if count == limit:
            call.cancel()
            return


class _ServerStatus:
    """The status that the server sent for a call.

    If the server answers a client stream before all requests are sent, grpc.aio ends the call twice, in any
    order: with the status of the server, and with INTERNAL for the request that could not be sent
    (https://github.com/grpc/grpc/issues/36066). This class keeps the first.

    Args:
        call: A call in progress.
    """

    def __init__(self, call: Any) -> None:
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        code, message, headers, trailers = map(
            _result, (call.code(), call.details(), call.initial_metadata(), call.trailing_metadata())
        )
        if code is not None and not (_made_by_client(code, trailers) or self._outcome.done()):
            self._outcome.set_result(_make_outcome(code, message, headers, trailers))

    async def outcome(self, error: grpc.aio.AioRpcError) -> Outcome:
        """Return how the call that raised `error` ended."""
        if _made_by_client(error.code(), error.trailing_metadata()):
            await asyncio.wait((self._outcome,), timeout=_STATUS_SECONDS)
        if self._outcome.done() and self._outcome.result().code is not grpc.StatusCode.OK:
            return self._outcome.result()
        headers, trailers = error.initial_metadata(), error.trailing_metadata()
        return _make_outcome(error.code(), error.details(), headers, trailers)


def _made_by_client(code: grpc.StatusCode, trailers: Any) -> bool:
    return code is grpc.StatusCode.INTERNAL and not trailers


def _result(coroutine: Any) -> Any:
    """Return the result of a coroutine that does not wait, None if it does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


def _entries(metadata: Any) -> Entries:
    return tuple((str(key), value) for key, value in metadata or ())


def _make_outcome(code: grpc.StatusCode, message: str | None, headers: Any, trailers: Any) -> Outcome:
    entries = dict(trailers or ())
    info, violations, status = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        status_pb2.Status(),
    )
    sent = entries.get("grpc-status-details-bin")
    # What is not a status has no details; the code says how the call ended.
    with contextlib.suppress(DecodeError):
        status.ParseFromString(sent if isinstance(sent, bytes) else b"")
        for detail in status.details:
            _ = detail.Unpack(info) or detail.Unpack(violations)
    return Outcome(
        code=code,
        message=message or "",
        reason=info.reason,
        challenge=str(entries.get("www-authenticate", "")),
        violations=tuple((v.field, v.description) for v in violations.field_violations),
        details=tuple(status.details),
        headers=_entries(headers),
        trailers=_entries(trailers),
    )
