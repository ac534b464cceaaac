"""Call any RPC as the user: the request in JSON, the responses, the status, and the same call as commands."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_each, new_trace, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method, parse_requests
from gatehouse.settings import ConfigurationError
from gatehouse_console.challenges import explain_challenge, step_up
from gatehouse_console.problems import Problem
from gatehouse_console.site import Site
from gatehouse_console.traces.calls import TracedCall

DEADLINES = (2, 10, 30)
MAX_RESPONSES = 50
_MAX_SHOWN_CHARS = 200_000
_DEPTH = 2
_TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_") and isinstance(number, int)
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request: its path, its type in words, and whether it is required."""

    path: str
    kind: str
    required: bool


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended.

    Attributes:
        outcome: Its status.
        challenge: Its challenge in words.
        responses: The responses as JSON.
        seconds: How long it took.
        trace_id: Id of its trace, "" if there is none.
    """

    outcome: Outcome
    challenge: str
    responses: str
    seconds: float
    trace_id: str


class CallPages:
    """The pages for calls.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route("/call", self.choose),
            Route("/call/{rpc:path}", self.show),
            Route("/call/{rpc:path}", self.call, methods=["POST"]),
        ]

    async def choose(self, request: Request) -> Response:
        """List the RPCs."""
        self._site.session(request)
        return self._site.page(request, "calls.html", rows=policy_rows(), services=SERVICES)

    async def show(self, request: Request) -> Response:
        """Show the form of an RPC."""
        session = self._site.session(request)
        kept = self._site.kept_forms.take(session, request.url.path)
        return self._page(request, _row(request), kept.get("data", "{}"), _deadline(kept))

    async def call(self, request: Request) -> Response:
        """Call an RPC, and show how the call ended."""
        session, form = await self._site.form(request)
        row, data = _row(request), form.get("data", "")
        seconds = _deadline(form)
        try:
            requests = parse_requests(_method(row), data)
        except ConfigurationError as error:
            problem = str(error).removeprefix("--data: ")
            return self._page(request, row, data, seconds, problem=problem, status=400)
        token = await self._site.token(session)
        result = await _call(self._site.profile, row, requests, token, seconds)
        code, took, trace_id = result.outcome.code.name, result.seconds, result.trace_id
        self._site.calls.add(session, TracedCall(row.name, code, took, time.time(), trace_id))
        if step_up(result.outcome.challenge):
            self._site.kept_forms.keep(session, request.url.path, form)
        return self._page(request, row, data, seconds, result=result)

    def _page(
        self,
        request: Request,
        row: PolicyRow,
        data: str,
        seconds: int,
        *,
        problem: str = "",
        result: Result | None = None,
        status: int = 200,
    ) -> Response:
        method = _method(row)
        return self._site.page(
            request,
            "call.html",
            status,
            row=row,
            data=data,
            seconds=seconds,
            deadlines=DEADLINES,
            fields=list(_fields(method.input_type)),
            streams=method.client_streaming,
            problem=problem,
            result=result,
            commands=_commands(self._site.profile, row, data),
        )


async def _call(
    profile: Profile, row: PolicyRow, requests: Sequence[Any], token: str, seconds: int
) -> Result:
    responses: list[str] = []

    def keep(response: Any) -> None:
        responses.append(json_format.MessageToJson(response, indent=2, preserving_proto_field_name=True))

    trace_id, traceparent = new_trace() if profile.traces_url else ("", "")
    started = time.monotonic()
    async with open_channel(profile, row.service) as channel:
        outcome = await call_each(
            channel,
            _method(row),
            requests,
            keep,
            token=token,
            limit=MAX_RESPONSES,
            timeout=seconds,
            metadata=[("traceparent", traceparent)] if traceparent else (),
        )
    text = "\n".join(responses)
    if len(text) > _MAX_SHOWN_CHARS:
        text = f"{text[:_MAX_SHOWN_CHARS]}\n(the rest is not shown)"
    challenge = explain_challenge(outcome.challenge)
    return Result(outcome, challenge, text, time.monotonic() - started, trace_id)


def _row(request: Request) -> PolicyRow:
    name = request.path_params["rpc"]
    found = next((row for row in policy_rows() if row.name == name), None)
    if found is None:
        raise Problem(404, "No such RPC", "No service has it. Choose one on the page Call.")
    return found


def _deadline(form: Mapping[str, str]) -> int:
    return next((each for each in DEADLINES if str(each) == form.get("seconds")), DEADLINES[1])


def _method(row: PolicyRow) -> MethodDescriptor:
    return find_method(SERVICES[row.service].descriptor, row.method)


def _fields(message: Descriptor, prefix: str = "", depth: int = _DEPTH) -> Iterator[Field]:
    for field in message.fields:
        kind = _TYPES[field.type]
        inner = field.message_type
        if inner is not None:
            kind = inner.full_name
        elif field.enum_type is not None:
            kind = ", ".join(value.name for value in field.enum_type.values)
        if field.is_repeated:
            kind = f"list of {kind}"
        if field.containing_oneof is not None and not field.containing_oneof.name.startswith("_"):
            kind = f"{kind}; one of {field.containing_oneof.name}"
        required = (
            field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        )
        yield Field(f"{prefix}{field.name}", kind, required)
        if inner is not None and depth > 1 and not inner.full_name.startswith("google.protobuf."):
            yield from _fields(inner, f"{prefix}{field.name}.", depth - 1)


def _commands(profile: Profile, row: PolicyRow, data: str) -> Sequence[str]:
    """Return the same call as commands of a shell."""
    content = shlex.quote(" ".join(data.split()) or "{}")
    trust = ["-plaintext"] if profile.plaintext else []
    if profile.ca_file is not None:
        trust += ["-cacert", shlex.quote(str(profile.ca_file))]
    if not row.rule.public:
        trust += ["-H", '"authorization: Bearer $TOKEN"']
    target = profile.targets[row.service]
    return [
        f"gatehouse call {row.service} {row.method} --data {content}",
        " ".join(["grpcurl", *trust, "-d", content, target, row.name]),
    ]
