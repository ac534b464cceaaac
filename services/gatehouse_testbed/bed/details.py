"""Details of a status that a test gives as JSON: google.rpc messages with `@type` (AIP-193)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2

_PREFIX = "type.googleapis.com/google.rpc."


def parse_details(details: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return the messages of JSON objects such as `{"@type": "...google.rpc.RetryInfo", "retryDelay": "3s"}`.

    Raises:
        ValueError: One is not such an object; the message says why.
    """
    return tuple(map(_parse, details))


def _parse(detail: Mapping[str, Any]) -> Message:
    name = str(detail.get("@type", "")).removeprefix(_PREFIX)
    types = sorted(error_details_pb2.DESCRIPTOR.message_types_by_name)
    if name not in types:
        raise ValueError(f"details: @type is not {_PREFIX} and one of {', '.join(types)}")
    message: Message = getattr(error_details_pb2, name)()
    try:
        json_format.ParseDict({key: detail[key] for key in detail if key != "@type"}, message)
    except json_format.ParseError:
        raise ValueError(f"details: not the fields of google.rpc.{name}") from None
    return message
