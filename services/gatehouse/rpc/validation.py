"""Parse requests and check the constraints in their protos (protovalidate)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import protovalidate
from google.protobuf.message import DecodeError, Message

from gatehouse.rpc.call import Status
from gatehouse.rpc.errors import StatusError, error_info, field_violations

_MALFORMED = Status(
    grpc.StatusCode.INVALID_ARGUMENT,
    "malformed request message",
    "REQUEST_MALFORMED",
    (error_info("REQUEST_MALFORMED"),),
)


def _field_path(violation: protovalidate.Violation) -> str:
    """Return the path of a field, such as `user.email` or `items[2].name`."""
    path = ""
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            # A map key is a value of the request, which must not appear in an error.
            path += f"[{subscript.value}]" if subscript.field == "index" else "[*]"
    return path


def parser(
    deserialize: Callable[[bytes], Any] | None, validator: protovalidate.Validator
) -> Callable[[bytes], Any]:
    """Return the function that parses and validates the requests of an RPC.

    It raises StatusError, INVALID_ARGUMENT with BadRequest, for an invalid request.

    Args:
        deserialize: Parses a request; None leaves it as bytes.
        validator: Checks constraints.
    """
    if deserialize is None:
        return bytes

    def parse(raw: bytes) -> Any:
        try:
            message = deserialize(raw)
        except (DecodeError, ValueError):
            raise StatusError(_MALFORMED) from None
        if isinstance(message, Message):
            violations = validator.collect_violations(message)
            if violations:
                raise StatusError(_invalid(violations))
        return message

    return parse


def _invalid(violations: list[protovalidate.Violation]) -> Status:
    found = [
        (_field_path(v), v.proto.rule_id.upper().replace(".", "_"), v.proto.message or "is invalid")
        for v in violations[:50]
    ]
    return Status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid request: " + ", ".join(sorted({f or "request" for f, _, _ in found})),
        "REQUEST_INVALID",
        (error_info("REQUEST_INVALID"), field_violations(*found)),
    )
