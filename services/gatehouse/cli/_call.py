"""The command `call`: any RPC with JSON, in all four shapes, streams as they come."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor

from gatehouse.app.policy import load_policy
from gatehouse.app.profile import load_full_profile
from gatehouse.app.services import find_services
from gatehouse.cli._ask import Client, Scope, Token, User, obtain, read_token
from gatehouse.cli._fail import OK, REFUSED, UNREACHABLE, say
from gatehouse.client.calls import (
    Outcome,
    call_each,
    find_method,
    new_trace,
    open_channel,
    parse_request,
    parse_requests,
)
from gatehouse.client.issuer import open_issuer_client
from gatehouse.settings import ConfigurationError

_UNARY_SECONDS = 10.0


def call(
    service: Annotated[str, typer.Argument(help="users, admin or public.")],
    method: Annotated[str, typer.Argument(help="An RPC of it, such as GetUser.")],
    data: Annotated[
        str, typer.Option(help="Request in JSON; for a stream a list; - reads it, or one a line, from input.")
    ] = "{}",
    user: User = None,
    client: Client = None,
    token: Token = None,
    scope: Scope = None,
    limit: Annotated[int, typer.Option(min=0, help="Ends a stream after so many answers.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds; 10 for a unary RPC, no end for a stream.")
    ] = None,
) -> int:
    """Calls an RPC with JSON, and prints its answers as JSON, one a line, as they come.

    Examples:
      gatehouse call public GetPublicInfo

      gatehouse call users ListUsers --as alice --data '{"page_size": 2}'

      gatehouse call users WatchUsers --as alice --limit 3

      gatehouse call users LookupUsers --as alice --data - < requests.jsonl

      gatehouse call admin GetStats --as alice
    """
    if sum(value is not None for value in (user, client, token)) > 1:
        raise ConfigurationError("--as, --client and --token: give one of them")
    if token == "-" and data == "-":  # noqa: S105 - a sign, no secret
        raise ConfigurationError("--token and --data: only one of them can be read from standard input")
    (spec,) = find_services([service])
    profile, found = load_full_profile(), find_method(spec.descriptor, method)
    requests = _requests(found, data)
    rule = load_policy()[f"/{found.containing_service.full_name}/{method}"]
    if timeout is None and not (found.client_streaming or found.server_streaming):
        timeout = _UNARY_SECONDS

    async def work() -> int:
        sent = read_token(token) if token is not None else None
        if user is not None or client is not None:
            async with open_issuer_client(profile) as issuer:
                sent = await obtain(issuer, profile, user, client, scope, " ".join(sorted(rule.scopes)))
        stream = _Lines(found)
        trace_id, traceparent = new_trace()
        traced = profile.traces_url is not None
        async with open_channel(profile, service) as channel:
            outcome = await call_each(
                channel,
                found,
                stream.requests() if requests is None else requests,
                _print,
                token=sent,
                limit=limit,
                timeout=timeout,
                metadata=[("traceparent", traceparent)] if traced else [],
            )
        if stream.error is not None:
            raise stream.error
        if traced:
            typer.echo(f"trace: gatehouse trace {trace_id}", err=True)
        return _tell(outcome, profile.targets[service])

    return asyncio.run(work())


def _requests(method: MethodDescriptor, data: str) -> list[Any] | None:
    """Returns the requests; None when they are to be read, line by line, while the call runs."""
    if data == "-":
        if method.client_streaming:
            return None
        data = sys.stdin.read()
    requests = parse_requests(method, data)
    if not method.client_streaming and len(requests) != 1:
        raise ConfigurationError(f"--data: {method.name} takes one request, and there are {len(requests)}")
    return requests


def _print(answer: Any) -> None:
    typer.echo(json_format.MessageToJson(answer, indent=None, preserving_proto_field_name=True))
    sys.stdout.flush()


def _tell(outcome: Outcome, target: str) -> int:
    if outcome.code is grpc.StatusCode.OK:
        return OK
    reason = f" ({outcome.reason})" if outcome.reason else ""
    away = outcome.code is grpc.StatusCode.UNAVAILABLE
    # Without a reason it is the transport that speaks, and not a service.
    hint = f"; does it run at {target}, and is it trusted?" if away and not outcome.reason else ""
    say(f"{outcome.code.name}: {outcome.message}{reason}{hint}")
    for name, description in outcome.violations:
        say(f"{name}: {description}")
    if outcome.challenge:
        say(f"www-authenticate: {outcome.challenge}")
    return UNREACHABLE if away else REFUSED


class _Lines:
    """Requests out of the lines of standard input, parsed as they come.

    Args:
        method: The RPC that they are for.
    """

    def __init__(self, method: MethodDescriptor) -> None:
        self._method = method
        self.error: ConfigurationError | None = None

    async def requests(self) -> AsyncIterator[Any]:
        """Yields them; a line that is no request ends the stream, and is kept as `error`."""
        number = 0
        async for line in _lines():
            number += 1
            if not line.strip():
                continue
            try:
                request = parse_request(self._method, line, f"line {number} of standard input")
            except ConfigurationError as error:
                self.error = error
                raise
            yield request


async def _lines() -> AsyncIterator[str]:
    """Yields the lines of standard input; a thread waits for them, so that nothing else has to."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)

    def put(chunk: bytes) -> bool:
        try:
            asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
        except RuntimeError:  # the loop has ended
            return False
        return bool(chunk)

    # By descriptor: a thread that waits in a file object would hold its lock when the process ends.
    threading.Thread(target=_feed, args=(sys.stdin.fileno(), put), daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    yield rest.decode(errors="replace")


def _feed(descriptor: int, put: Callable[[bytes], bool]) -> None:
    while put(os.read(descriptor, 65536)):
        pass
