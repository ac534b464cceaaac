"""A request in JSON as the fields of a form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import MethodDescriptor

from gatehouse.client.requests import load_requests
from gatehouse_console.calls.nodes import is_leaf
from gatehouse_console.calls.sent import ROOT, Sent, list_of
from gatehouse_console.calls.shapes import Kind, Shape, request_shape

# HTML and forms change them, or cannot have them.
_UNSENDABLE = re.compile(r"[^\n\t\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VALUE = struct_pb2.Value.DESCRIPTOR


class NotAForm(Exception):
    """The JSON cannot be shown as a form.

    Args:
        path: Where.
        reason: Why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def fields_of(method: MethodDescriptor, data: str) -> Sent:
    """Return the fields of requests in JSON, also of those that are not valid.

    Raises:
        ConfigurationError: It is not JSON.
        NotAForm: It does not have the structure of the request type.
    """
    element = request_shape(method).element
    assert element is not None  # noqa: S101 - of every request
    items = load_requests(method, data)
    if not method.client_streaming and len(items) != 1:
        raise NotAForm("request", f"{len(items)} requests; {method.name} takes one")
    return list_of(_required(element, item, f"{ROOT}[{n}]") for n, item in enumerate(items))


def _required(shape: Shape, value: Any, name: str) -> Sent:
    found = _fields(shape, value, name)
    if found is None:
        raise NotAForm(name, "null in a list")
    return found


def _fields(shape: Shape, value: Any, name: str) -> Sent | None:
    """Return the fields of a value, None if it is not set."""
    is_value = shape.type_name == _VALUE.name and shape.kind is Kind.JSON
    if value is None and not (is_value or "NULL_VALUE" in shape.choices):
        return None
    if is_leaf(shape, name):
        return Sent(_text(shape, value, name))
    if shape.kind is Kind.LIST and shape.element is not None:
        element = shape.element
        if not isinstance(value, list):
            raise NotAForm(name, "not a list")
        return list_of(_required(element, item, f"{name}[{n}]") for n, item in enumerate(value))
    if not isinstance(value, dict):
        raise NotAForm(name, "not an object")
    if shape.kind is Kind.MAP and shape.element is not None:
        key, inner = shape.element.fields()
        entries = [
            Sent(
                children={
                    "key": Sent(_text(key, text, name)),
                    "value": _required(inner, item, f"{name}[{n}].value"),
                }
            )
            for n, (text, item) in enumerate(value.items())
        ]
        return list_of(entries)
    return Sent(children=_members(shape, value, name))


def _members(shape: Shape, value: Mapping[str, Any], name: str) -> dict[str | int, Sent]:
    known = {}
    for inner in shape.fields():
        known[inner.name] = inner
        if inner.descriptor is not None:
            known[inner.descriptor.json_name] = inner
    found: dict[str | int, Sent] = {}
    for key, item in value.items():
        if key not in known:
            raise NotAForm(name, f"no field {json.dumps(key)}")
        member = known[key]
        if member.name in found:
            raise NotAForm(f"{name}.{key}", "set twice")
        fields = _fields(member, item, f"{name}.{member.name}")
        if fields is not None:
            found[member.name] = fields
    return found


def _text(shape: Shape, value: Any, name: str) -> str:
    """Return the text of an input."""
    if shape.kind is Kind.JSON:
        value = json.dumps(value, ensure_ascii=False)
    elif value is None:
        value = "NULL_VALUE"
    elif isinstance(value, float) and value.is_integer() and shape.kind in {Kind.INTEGER, Kind.LONG}:
        value = str(int(value))
    elif not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    elif shape.kind is Kind.MASK:
        value = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", value)
    if _UNSENDABLE.search(value):
        raise NotAForm(name, "has control characters, which a form cannot send")
    text: str = value
    return text
