"""What a page shows of how a call has ended."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import protovalidate
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from gatehouse.client.calls import Entries, Outcome
from gatehouse_console.calls.nodes import Node, place_violations
from gatehouse_console.calls.run import Run
from gatehouse_console.challenges import explain_challenge

_STATUS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Result:
    """How a call has ended, in words.

    Attributes:
        outcome: Its status.
        challenge: What its challenge asks for.
        details: Type and JSON of each detail of the status.
        headers: Names and texts of the headers.
        trailers: Names and texts of the trailers.
    """

    outcome: Outcome
    challenge: str
    details: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]
    trailers: Sequence[tuple[str, str]]


def result_of(run: Run) -> Result | None:
    """Return how a call has ended, None while it runs."""
    outcome = run.outcome
    if outcome is None:
        return None
    return Result(
        outcome,
        explain_challenge(outcome.challenge),
        [_detail(detail) for detail in outcome.details],
        _entries(outcome.headers),
        _entries(outcome.trailers),
    )


def note_violations(root: Node, run: Run) -> None:
    """Note at the fields of a form what a service has refused."""
    if run.outcome is not None and run.outcome.violations:
        requests = run.call.requests
        # The service refuses the first invalid request of a stream, and does not say which that is.
        invalid = (n for n, request in enumerate(requests) if protovalidate.collect_violations(request))
        position = 0 if len(requests) == 1 else next(invalid, None)
        if position is not None:
            place_violations(root, position, run.outcome.violations)


def _detail(detail: AnyMessage) -> tuple[str, str]:
    name = detail.type_url.rpartition("/")[2]
    try:
        return name, json_format.MessageToJson(
            detail, indent=2, preserving_proto_field_name=True, ensure_ascii=False
        )
    except (TypeError, ValueError, DecodeError):  # of a type that is unknown here, or malformed
        return name, f"base64: {base64.b64encode(detail.value).decode()}"


def _entries(entries: Entries) -> Sequence[tuple[str, str]]:
    # The details have a place of their own.
    return [
        (name, f"base64: {base64.b64encode(value).decode()}" if isinstance(value, bytes) else value)
        for name, value in entries
        if name != _STATUS
    ]
