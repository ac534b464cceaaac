"""The command `call`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format

from gatehouse.app.policy import load_policy
from gatehouse.app.profile import local_profile
from gatehouse.app.services import SERVICES, find_services
from gatehouse.cli._errors import ExitCode, print_error
from gatehouse.cli._options import Client, Scope, StoredLogin, User
from gatehouse.cli._program import program_name
from gatehouse.cli._stored_login import StoredTokens, login_for_call, stored_tokens
from gatehouse.cli._token import obtain_token, password_of, read_token
from gatehouse.client.calls import Outcome, call_each, new_trace, open_channel
from gatehouse.client.metadata import parse_metadata
from gatehouse.client.profile import profile_file
from gatehouse.client.requests import RequestLines, find_method, parse_requests
from gatehouse.settings import ConfigurationError

_UNARY_SECONDS = 10.0


def call(
    service: Annotated[str, typer.Argument(help=f"One of: {', '.join(SERVICES)}.")],
    method: Annotated[str, typer.Argument(help="Name of an RPC, such as GetUser.")],
    data: Annotated[
        str,
        typer.Option(
            help="Request as JSON; a list for a stream; - reads it from standard input, for a stream one "
            "request per line."
        ),
    ] = "{}",
    user: User = None,
    client: Client = None,
    token: Annotated[
        str | None, typer.Option(help="Access token to use; - reads it from standard input.")
    ] = None,
    login: StoredLogin = None,
    scope: Scope = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="Metadata to send, such as 'x-tenant: 7'; base64 if the name ends in -bin."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Cancel a stream after this many responses; 0 for no limit.")
    ] = 0,
    *,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds; by default 10 for unary RPCs, no limit for streams."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print gRPC's own message about a failed connection.")
    ] = False,
) -> int:
    """Call an RPC with a request in JSON, and print each response as a line of JSON.

    Without --as, --client, --token and --login, the token is that of the stored login, if there is one (see
    `gatehouse login`) and the RPC needs a token. Without a profile, the service is the one that the settings
    would start on this machine.

    Examples:
      gatehouse call users GetCurrentUser
      gatehouse call users ListUsers --as alice --data '{"page_size": 2}'
      gatehouse call users WatchUsers --as alice --limit 3
      gatehouse call users LookupUsers --as alice --data - < ids.jsonl
      gatehouse call users CountUsers --as alice
    """
    if sum(value is not None for value in (user, client, token, login)) > 1:
        raise ConfigurationError("--as, --client, --token and --login: use only one of them")
    if token == "-" and data == "-":  # noqa: S105 - not a secret
        raise ConfigurationError("--token and --data: only one of them can be read from standard input")
    (spec,) = find_services([service])
    profile, rpc = local_profile(), find_method(spec.descriptor, method)
    entries = parse_metadata(metadata or ())
    lines: RequestLines | None = None
    requests: list[Any] = []
    if data == "-" and rpc.client_streaming:
        lines = RequestLines(rpc, sys.stdin.fileno())
    else:
        requests = parse_requests(rpc, sys.stdin.read() if data == "-" else data)
    if timeout is None and not (rpc.client_streaming or rpc.server_streaming):
        timeout = _UNARY_SECONDS

    rule = load_policy()[f"/{rpc.containing_service.full_name}/{method}"]
    # Asked for here, because Ctrl-C does not interrupt what blocks an event loop.
    password = "" if user is None else password_of(user, profile)
    given = None if token is None else read_token(token)

    async def run() -> Outcome:
        access_token = given
        stack = AsyncExitStack()
        tokens: StoredTokens | None = None
        if user is not None or client is not None:
            access_token = await obtain_token(profile, user, password, client, scope, sorted(rule.scopes))
        elif access_token is None and (name := login_for_call(profile, login, public=rule.public)):
            tokens = await stack.enter_async_context(stored_tokens(profile, name))
        trace_id, traceparent = new_trace()
        traced = [("traceparent", traceparent)] if profile.traces_url else []
        async with stack, open_channel(profile, service, tokens) as channel:
            outcome = await call_each(
                channel,
                rpc,
                lines or requests,
                _print_response,
                token=access_token,
                limit=limit,
                timeout=timeout,
                metadata=(*entries, *traced),
            )
            await _replace_rejected(tokens, outcome)
        if lines is not None and lines.error is not None:
            raise lines.error
        if traced:
            typer.echo(f"trace: {program_name()} trace {trace_id}", err=True)
        return outcome

    return _report(asyncio.run(run()), profile.targets[service], sorted(rule.roles), verbose=verbose)


async def _replace_rejected(tokens: StoredTokens | None, outcome: Outcome) -> None:
    # Only unary calls are sent again with another token.
    if tokens is not None and outcome.code is grpc.StatusCode.UNAUTHENTICATED:
        await tokens.replace()


def _print_response(response: Any) -> None:
    typer.echo(json_format.MessageToJson(response, indent=None, preserving_proto_field_name=True))
    sys.stdout.flush()


def _report(outcome: Outcome, target: str, roles: Sequence[str], *, verbose: bool) -> int:
    """Print why a call failed, and return the exit code."""
    if outcome.code is grpc.StatusCode.OK:
        return ExitCode.OK
    unavailable = outcome.code is grpc.StatusCode.UNAVAILABLE
    # Without a reason the status is not from the service but from the transport.
    transport = not outcome.reason and (unavailable or outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED)
    if transport:
        print_error(f"{outcome.code.name}: {_connection_problem(outcome, target)}")
        if verbose:
            print_error(f"details of gRPC: {outcome.message}")
    else:
        reason = f" ({outcome.reason})" if outcome.reason else ""
        print_error(f"{outcome.code.name}: {outcome.message}{reason}")
    for field, description in outcome.violations:
        print_error(f"{field}: {description}")
    if outcome.challenge:
        print_error(f"www-authenticate: {outcome.challenge}")
    if outcome.reason == "ROLE_MISSING":  # the challenge names scopes only
        print_error(f"the token needs one of the roles that the rule requires: {', '.join(roles)}")
    if outcome.reason == "TOKEN_MISSING":
        print_error("no token was sent; log in with `gatehouse login`, or name a user with --as")
    return ExitCode.UNREACHABLE if unavailable else ExitCode.REFUSED


def _connection_problem(outcome: Outcome, target: str) -> str:
    if outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not respond in time; check that it is running, or set a longer --timeout"
    details = outcome.message.lower()
    trusted = "`ca_file` in the profile" if profile_file() else "`GATEHOUSE_TLS__CA_FILE`"
    if "certificate" in details or "handshake" in details or "peer name" in details:
        return (
            f"no TLS connection to {target}; check that it uses TLS, that {trusted} trusts its certificate, "
            "and that the certificate has its name (`server_name`)"
        )
    if "resol" in details:  # "errors resolving", "DNS resolution failed"
        return f"the host name of {target} cannot be resolved; check the target in the profile"
    return f"cannot connect to {target}; check that it runs there, and that {trusted} trusts its certificate"
