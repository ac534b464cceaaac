"""From bytes to a request that its proto allows: parsing, then the constraints of protovalidate."""

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
    "the request is not a message of this RPC",
    "REQUEST_MALFORMED",
    (error_info("REQUEST_MALFORMED"),),
)


def _field_path(violation: protovalidate.Violation) -> str:
    """Writes a path as `user.email`, `items[2].name`."""
    path = ""
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            # A map key is a value of the request, and not for an error text.
            path += f"[{subscript.value}]" if subscript.field == "index" else "[*]"
    return path


def parser(
    deserialize: Callable[[bytes], Any] | None, validator: protovalidate.Validator
) -> Callable[[bytes], Any]:
    """Makes the function that parses and validates the requests of one RPC.

    Args:
        deserialize: Parses bytes; None hands them on as they are.
        validator: Checks constraints.

    Returns:
        A function that raises StatusError, INVALID_ARGUMENT with BadRequest, for a request that does not fit.
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
        (_field_path(v), v.proto.rule_id.upper().replace(".", "_"), v.proto.message or "is not valid")
        for v in violations[:50]
    ]
    return Status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request is not valid: " + ", ".join(sorted({f or "request" for f, _, _ in found})),
        "REQUEST_INVALID",
        (error_info("REQUEST_INVALID"), field_violations(*found)),
    )
