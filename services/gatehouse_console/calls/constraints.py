"""Constraints of protovalidate in words, and as attributes of an input."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2
from gatehouse_console.calls.patterns import html_pattern

_WORDS = {
    "const": "must be {}",
    "in": "one of {}",
    "not_in": "none of {}",
    "len": "{} characters",
    "min_len": "at least {} characters",
    "max_len": "at most {} characters",
    "len_bytes": "{} bytes",
    "min_bytes": "at least {} bytes",
    "max_bytes": "at most {} bytes",
    "pattern": "matches {}",
    "prefix": "starts with {}",
    "suffix": "ends with {}",
    "contains": "contains {}",
    "not_contains": "does not contain {}",
    "email": "an email address",
    "uuid": "a UUID",
    "uri": "a URI",
    "hostname": "a host name",
    "lt": "less than {}",
    "lte": "at most {}",
    "gt": "greater than {}",
    "gte": "at least {}",
    "min_items": "at least {} items",
    "max_items": "at most {} items",
    "unique": "no item twice",
    "min_pairs": "at least {} entries",
    "max_pairs": "at most {} entries",
    "lt_now": "in the past",
    "gt_now": "in the future",
    "within": "within {} of now",
}
# Shown elsewhere, or no constraint.
_SILENT = frozenset({"defined_only", "example", "strict", "items", "keys", "values"})
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_EMAIL = "[^@]+@[^@]+"

Rules = validate_pb2.FieldRules


def rules_of(field: FieldDescriptor) -> Rules:
    """Return the rules of a field, which are empty if it has none."""
    rules: Rules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def field_hints(rules: Rules, enum: EnumDescriptor | None) -> Sequence[str]:
    """Return the rules of a field in words.

    Args:
        rules: The rules.
        enum: Type of the field, whose values have names.
    """
    return [*_type_hints(rules, enum), *_cel_hints(rules)]


def message_hints(message: Descriptor) -> Sequence[str]:
    """Return the rules of a message in words, without those of its fields."""
    rules = message.GetOptions().Extensions[validate_pb2.message]
    groups = [
        f"{'exactly' if one.required else 'at most'} one of {', '.join(one.fields)}" for one in rules.oneof
    ]
    return [*groups, *_cel_hints(rules)]


def is_required(rules: Rules) -> bool:
    """Return whether a field must be set."""
    return bool(rules.required)


def text_attributes(rules: Rules) -> Mapping[str, str]:
    """Return attributes of an input for a string.

    There is no `maxlength`: it would cut what is pasted, and counts UTF-16 code units.
    """
    string = rules.string
    if string.uuid:
        return {"pattern": _UUID}
    least, most = string.min_len or string.len, string.max_len or string.len
    length = f"(?=.{{{least},{most or ''}}}$)" if least or most else ""
    pattern = html_pattern(string.pattern) if string.pattern else None
    shown = pattern or (_EMAIL if string.email else ".*")
    attributes = {"inputmode": "email"} if string.email else {}
    return attributes | ({"pattern": f"{length}{shown}"} if length or shown != ".*" else {})


def number_attributes(rules: Rules, low: int, high: int) -> Mapping[str, str]:
    """Return attributes of an input for a number of 32 bits.

    Args:
        rules: The rules.
        low: Smallest number of the type.
        high: Largest number of the type.
    """
    kind = rules.WhichOneof("type")
    limits = {rule.name: value for rule, value in getattr(rules, kind).ListFields()} if kind else {}
    least = limits.get("gte", limits["gt"] + 1 if "gt" in limits else low)
    most = limits.get("lte", limits["lt"] - 1 if "lt" in limits else high)
    if least > most:  # the numbers between the two are not allowed, all others are
        least, most = low, high
    return {"type": "number", "step": "1", "min": str(least), "max": str(most)}


def _type_hints(rules: Rules, enum: EnumDescriptor | None) -> Iterator[str]:
    kind = rules.WhichOneof("type")
    if kind is None:
        return
    for rule, value in getattr(rules, kind).ListFields():
        if rule.name in _SILENT:
            continue
        words = _WORDS.get(rule.name)
        if words is None:
            name = rule.name.replace("_", " ")
            words = name if value is True else f"{name}: {{}}"
        if kind == "bytes":
            words = words.replace("characters", "bytes")
        if value == 1 and value is not True:
            words = words.replace("entries", "entry").removesuffix("s")
        yield words.replace("{}", _text(value, enum))
    if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        yield "or empty"


def _cel_hints(rules: Any) -> Iterator[str]:
    for rule in rules.cel:
        yield rule.message or rule.expression
    yield from rules.cel_expression


def _text(value: Any, enum: EnumDescriptor | None) -> str:
    if isinstance(value, Message):
        return str(getattr(value, "ToJsonString", value.__str__)())
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int | float):
        named = enum.values_by_number.get(int(value)) if enum is not None else None
        return named.name if named is not None else f"{value:g}" if isinstance(value, float) else str(value)
    return ", ".join(_text(one, enum) for one in value)
