"""Calls any RPC of the three services with JSON, by the compiled descriptors."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2

from gatehouse.client.channel import connect
from gatehouse.client.profile import Profile
from gatehouse.client.tls import ClientTls
from gatehouse.settings import ConfigurationError

_ANSWER_SECONDS = 1.0
_DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: The code.
        message: The text of the status.
        reason: Of ErrorInfo, "" when there is none.
        challenge: `www-authenticate`, "" when there is none.
        violations: (field, description) of BadRequest.
        answers: The responses.
    """

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    challenge: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    answers: tuple[Any, ...] = field(default=(), repr=False)


def find_method(service: ServiceDescriptor, method: str) -> MethodDescriptor:
    """Return the method of a service by its short name.

    Raises:
        ConfigurationError: There is no such method.
    """
    found: MethodDescriptor | None = service.methods_by_name.get(method)
    if found is None:
        names = ", ".join(service.methods_by_name)
        raise ConfigurationError(f"{method}: {service.name} has no such RPC; use one of {names}")
    return found


def parse_request(method: MethodDescriptor, data: str, where: str) -> Any:
    """Parses one request out of JSON.

    Args:
        method: The RPC.
        data: JSON.
        where: Where it stands, for the error.

    Raises:
        ConfigurationError: It is no JSON, or not of the RPC's request.
    """
    try:
        return json_format.Parse(data, message_factory.GetMessageClass(method.input_type)())
    except (json_format.ParseError, RecursionError) as error:
        raise _no_request(method, where, error) from None


def parse_requests(method: MethodDescriptor, data: str) -> list[Any]:
    """Parses requests out of JSON: one object; for a stream also a list, or one object a line.

    Raises:
        ConfigurationError: It is no JSON, or not of the RPC's request.
    """
    kind = message_factory.GetMessageClass(method.input_type)
    try:
        try:
            whole = json.loads(data)
            raw = whole if isinstance(whole, list) else [whole]
        except ValueError:
            raw = [json.loads(line) for line in data.splitlines() if line.strip()]
        return [json_format.ParseDict(item, kind()) for item in raw]
    except (ValueError, TypeError, AttributeError, RecursionError, json_format.ParseError) as error:
        raise _no_request(method, "--data", error) from None


def _no_request(method: MethodDescriptor, where: str, error: Exception) -> ConfigurationError:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(f"{where}: is not a {method.input_type.name} in JSON ({text})")


def new_trace() -> tuple[str, str]:
    """Returns the id of a new trace that is to be sampled, and its `traceparent` (W3C Trace Context 2)."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


@asynccontextmanager
async def open_channel(profile: Profile, service: str) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel to a service."""
    tls = ClientTls(ca_file=profile.ca_file, plaintext=profile.plaintext)
    async with connect(profile.targets[service], tls=tls) as channel:
        yield channel


def open_call(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Any] | AsyncIterable[Any],
    *,
    metadata: Iterable[tuple[str, str]] = (),
    timeout: float | None = 10.0,
) -> Any:
    """Begins a call of any shape; requests that come later are for RPCs that stream them."""
    shapes = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    answer = message_factory.GetMessageClass(method.output_type)
    stub: Any = shapes[method.client_streaming, method.server_streaming](
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=answer.FromString,
    )
    argument: Any = requests
    if isinstance(requests, Sequence):
        argument = list(requests) if method.client_streaming else requests[0]
    return stub(argument, metadata=tuple(metadata), timeout=timeout)


async def answers_of(call: Any, method: MethodDescriptor, limit: int = 0) -> AsyncIterator[Any]:
    """Yields the responses of a call; after `limit` of them the call is cancelled, 0 means never."""
    if not method.server_streaming:
        yield await call
        return
    count = 0
    async for message in call:
        yield message
        count += 1
        if count == limit:
            call.cancel()
            return


class _Ending:
    """The status that the server ended a call with.

    A stream that is answered before it has sent its requests ends twice in grpc.aio, in any order: with the
    answer, and with INTERNAL for the request that could not be sent any more (grpc/grpc issue 36066).

    Args:
        call: A call under way.
    """

    def __init__(self, call: Any) -> None:
        self._answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        code, details, trailers = map(_at_once, (call.code(), call.details(), call.trailing_metadata()))
        if code is not None and not (_made_by_client(code, trailers) or self._answer.done()):
            self._answer.set_result(_outcome(code, details, trailers))

    async def outcome(self, error: grpc.aio.AioRpcError) -> Outcome:
        """Returns the status of the call that `error` says has failed."""
        if _made_by_client(error.code(), error.trailing_metadata()):
            await asyncio.wait((self._answer,), timeout=_ANSWER_SECONDS)
        if self._answer.done() and self._answer.result().code is not grpc.StatusCode.OK:
            return self._answer.result()
        return _outcome(error.code(), error.details(), error.trailing_metadata())


def _made_by_client(code: grpc.StatusCode, trailers: Any) -> bool:
    return code is grpc.StatusCode.INTERNAL and not trailers


def _at_once(coroutine: Any) -> Any:
    """Returns the result of a coroutine that has nothing to wait for, None of one that has."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    return None


def _outcome(code: grpc.StatusCode, text: str | None, metadata: Any) -> Outcome:
    """Makes an outcome of a status, its details and its challenge."""
    trailers = dict(metadata or ())
    reason, violations = "", []
    raw = trailers.get("grpc-status-details-bin")
    if isinstance(raw, bytes):
        for detail in status_pb2.Status.FromString(raw).details:
            for kind in _DETAILS:
                message = kind()
                if detail.Unpack(message):
                    if isinstance(message, error_details_pb2.ErrorInfo):
                        reason = message.reason
                    else:
                        violations = [(v.field, v.description) for v in message.field_violations]
    return Outcome(
        code=code,
        message=text or "",
        reason=reason,
        challenge=str(trailers.get("www-authenticate", "")),
        violations=tuple(violations),
    )


async def call_each(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Any] | AsyncIterable[Any],
    on_answer: Callable[[Any], None],
    *,
    token: str | None = None,
    limit: int = 0,
    timeout: float | None = 10.0,
    metadata: Iterable[tuple[str, str]] = (),
) -> Outcome:
    """Makes a call, hands each answer on as it comes, and returns how it ended, without the answers."""
    sent = [*metadata, *([("authorization", f"Bearer {token}")] if token is not None else [])]
    call = open_call(channel, method, requests, metadata=sent, timeout=timeout)
    ending = _Ending(call)
    try:
        async for message in answers_of(call, method, limit):
            on_answer(message)
    except grpc.aio.AioRpcError as error:
        return await ending.outcome(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            call.cancel()
            raise
        # Not this task but the call was: its requests could not be had.
        return Outcome(grpc.StatusCode.CANCELLED, "the call was cancelled")
    return Outcome(grpc.StatusCode.OK)


async def call_once(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Any],
    *,
    token: str | None = None,
    limit: int = 0,
    timeout: float | None = 10.0,
    metadata: Iterable[tuple[str, str]] = (),
) -> Outcome:
    """Makes a call and returns how it ended, whatever that is; with its answers when it ended well."""
    answers: list[Any] = []
    outcome = await call_each(
        channel,
        method,
        requests,
        answers.append,
        token=token,
        limit=limit,
        timeout=timeout,
        metadata=metadata,
    )
    return replace(outcome, answers=tuple(answers)) if outcome.code is grpc.StatusCode.OK else outcome
