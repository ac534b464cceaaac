"""The text of an input as a value in JSON, by the kind of its field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import json_format, message_factory

from gatehouse_console.calls.shapes import Kind, Shape

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,4})?")
# The parser accepts more: 1_000, numbers that are too large, and any characters in base64.
_GRAMMAR = {
    Kind.INTEGER: _INTEGER,
    Kind.LONG: _INTEGER,
    Kind.NUMBER: re.compile(rf"{_FLOAT.pattern}|NaN|-?Infinity"),
    Kind.BYTES: re.compile(r"[A-Za-z0-9+/_-]*={0,2}"),
}
_EXPECTED = {
    Kind.BOOL: "true or false",
    Kind.BYTES: "base64",
    Kind.TIMESTAMP: "a time such as 2026-01-31T12:00:00Z",
    Kind.DURATION: "a duration such as 1.5s",
    Kind.MASK: "paths of fields, separated by commas",
    Kind.JSON: "JSON of this type",
}


def value_of(kind: Kind, text: str) -> Any:
    """Return a text as JSON. One that is not of its kind stays text, which the parser refuses."""
    return _VALUES[kind](text) if kind in _VALUES else text


def value_error(shape: Shape, text: str) -> str:
    """Return why a text is not a value of a field, "" if it is one."""
    return "" if _parses(shape, text) else f"not {_EXPECTED.get(shape.kind) or f'of type {shape.type_name}'}"


def _parses(shape: Shape, text: str) -> bool:
    descriptor = shape.descriptor
    if descriptor is None or descriptor.containing_type is None:
        return True
    grammar = _GRAMMAR.get(shape.kind)
    if grammar is not None and not grammar.fullmatch(text):
        return False
    message, value = message_factory.GetMessageClass(descriptor.containing_type)(), value_of(shape.kind, text)
    if shape.kind is Kind.NUMBER and isinstance(value, str) and value[-1].isdigit():
        return False  # too large; the parser would make it infinite
    in_list = shape.is_item and descriptor.is_repeated
    try:
        json_format.ParseDict({descriptor.name: [value] if in_list else value}, message)
    except (ValueError, TypeError, AttributeError, RecursionError, json_format.ParseError):
        return False
    return True


def _bool(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


def _integer(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else text


def _number(text: str) -> Any:
    return float(text) if _FLOAT.fullmatch(text) and math.isfinite(float(text)) else text


def _mask(text: str) -> Any:
    """Return paths of a field mask as JSON has them, in camel case."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), text.replace(" ", ""))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_VALUES: Mapping[Kind, Callable[[str], Any]] = {
    Kind.BOOL: _bool,
    Kind.INTEGER: _integer,
    Kind.ENUM: _integer,
    Kind.NUMBER: _number,
    Kind.MASK: _mask,
    Kind.JSON: _json,
}
