"""What a form has for each field of a message: its kind, its constraints, and when it counts as set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from google.api import field_behavior_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from gatehouse_console.calls import constraints
from gatehouse_console.calls.constraints import Rules

_F = FieldDescriptor


class Kind(StrEnum):
    """How a form shows a field."""

    TEXT = "text"
    INTEGER = "integer"
    LONG = "long"
    """64 bits, which JSON has as text."""
    NUMBER = "number"
    BOOL = "bool"
    ENUM = "enum"
    BYTES = "bytes"
    TIMESTAMP = "timestamp"
    DURATION = "duration"
    MASK = "mask"
    JSON = "json"
    """Has no fields of its own, such as `google.protobuf.Struct`."""
    MESSAGE = "message"
    LIST = "list"
    MAP = "map"
    ENTRY = "entry"
    """A key and a value of a map."""


_SCALARS = {
    _F.TYPE_STRING: Kind.TEXT,
    _F.TYPE_BYTES: Kind.BYTES,
    _F.TYPE_BOOL: Kind.BOOL,
    _F.TYPE_ENUM: Kind.ENUM,
    _F.TYPE_FLOAT: Kind.NUMBER,
    _F.TYPE_DOUBLE: Kind.NUMBER,
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), Kind.INTEGER),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), Kind.INTEGER),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), Kind.LONG),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), Kind.LONG),
}
_UNSIGNED = frozenset({_F.TYPE_UINT32, _F.TYPE_FIXED32})
_WELL_KNOWN = {
    "google.protobuf.Timestamp": Kind.TIMESTAMP,
    "google.protobuf.Duration": Kind.DURATION,
    "google.protobuf.FieldMask": Kind.MASK,
    **{f"google.protobuf.{name}": Kind.JSON for name in ("Any", "Struct", "Value", "ListValue")},
}
_WRAPPERS = frozenset(message.full_name for message in wrappers_pb2.DESCRIPTOR.message_types_by_name.values())
_NUMBER_PATTERN = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+\-]?\d+)?|NaN|-?Infinity"
_ATTRIBUTES: Mapping[Kind, Mapping[str, str]] = {
    Kind.LONG: {"inputmode": "numeric", "pattern": r"-?\d+"},
    Kind.NUMBER: {"inputmode": "decimal", "pattern": _NUMBER_PATTERN},
    Kind.BYTES: {"placeholder": "base64", "pattern": r"[A-Za-z0-9+\/_\-]*=*"},
    Kind.TIMESTAMP: {"placeholder": "2026-01-31T12:00:00Z"},
    Kind.DURATION: {"placeholder": "1.5s", "pattern": r"-?\d+(?:\.\d{1,9})?s"},
    Kind.MASK: {"placeholder": "paths, separated by commas"},
}
# Their empty text is a value, so it cannot mean that they are not set.
_EMPTY_IS_VALUE = frozenset({Kind.TEXT, Kind.BYTES, Kind.MASK})
LISTS = frozenset({Kind.LIST, Kind.MAP})
CONTAINERS = LISTS | {Kind.MESSAGE, Kind.ENTRY}


@dataclass(frozen=True, slots=True)
class Shape:
    """A field, or an item of one.

    Attributes:
        name: Name of the field.
        kind: How it is shown.
        type_name: Its type, for display.
        descriptor: Its descriptor, None for a whole request.
        message: Type of a message, or of the entries of a map.
        element: Shape of the items of a list or map.
        choices: Texts to choose from.
        is_item: Whether it is an item of a list or map.
        has_presence: Whether not being set differs from any value.
        oneof: The oneof that it is in, "" if none.
        required: Whether it must be set.
        output_only: Whether the service ignores it in requests (AIP-203).
        hints: Its constraints in words.
        attributes: Attributes of its input.
    """

    name: str
    kind: Kind
    type_name: str
    descriptor: FieldDescriptor | None = None
    message: Descriptor | None = None
    element: Shape | None = None
    choices: Sequence[str] = ()
    is_item: bool = False
    has_presence: bool = False
    oneof: str = ""
    required: bool = False
    output_only: bool = False
    hints: Sequence[str] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_optional(self) -> bool:
        """Whether a button adds it: no input can show that it is not set."""
        if self.is_item or not self.has_presence:
            return False
        return self.kind is Kind.MESSAGE or bool(self.oneof) or self.kind in _EMPTY_IS_VALUE

    @property
    def is_nullable(self) -> bool:
        """Whether its empty input says that it is not set."""
        return self.has_presence and not (self.is_item or self.is_optional)

    def fields(self) -> Sequence[Shape]:
        """Return the shapes of the fields of a message, or of the key and value of an entry."""
        fields = self.message.fields if self.message is not None else ()
        if self.kind is not Kind.ENTRY or self.descriptor is None:
            return [shape_of(inner, constraints.rules_of(inner)) for inner in fields]
        rules = constraints.rules_of(self.descriptor).map
        limits = (rules.keys, rules.values)
        return [
            replace(shape_of(inner, one), is_item=True) for inner, one in zip(fields, limits, strict=True)
        ]


def request_shape(method: MethodDescriptor) -> Shape:
    """Return the shape of the requests of an RPC, a list."""
    message = method.input_type
    hints = constraints.message_hints(message)
    element = Shape("request", Kind.MESSAGE, message.name, message=message, is_item=True, hints=hints)
    return Shape("request", Kind.LIST, message.name, element=element)


def shape_of(field: FieldDescriptor, rules: Rules) -> Shape:
    """Return the shape of a field with the rules that hold for it."""
    if not field.is_repeated:
        return _single(field, rules)
    shape, message = _single(field, rules), field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (_single(inner, Rules()).type_name for inner in message.fields)
        element = replace(shape, kind=Kind.ENTRY, type_name="entry", is_item=True, required=False, hints=())
        return replace(shape, kind=Kind.MAP, type_name=f"map of {key} to {value}", element=element)
    element = replace(_single(field, rules.repeated.items), is_item=True, required=False)
    hints = constraints.field_hints(rules, field.enum_type)
    return replace(
        shape,
        kind=Kind.LIST,
        type_name=f"list of {shape.type_name}",
        element=element,
        hints=hints,
        message=None,
    )


def _single(field: FieldDescriptor, rules: Rules) -> Shape:
    message, scalar, oneof = field.message_type, field, field.containing_oneof
    hints = constraints.field_hints(rules, field.enum_type)
    if message is None:
        kind, type_name = _SCALARS[field.type], _type_name(field)
    else:
        kind, type_name = _WELL_KNOWN.get(message.full_name, Kind.MESSAGE), message.name
        if message.full_name in _WRAPPERS:
            scalar = message.fields_by_name["value"]
            kind = _SCALARS[scalar.type]
        elif kind is Kind.MESSAGE:
            hints = [*hints, *constraints.message_hints(message)]
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return Shape(
        name=field.name,
        kind=kind,
        type_name=type_name,
        descriptor=field,
        message=message if kind is Kind.MESSAGE else None,
        choices=_choices(scalar),
        has_presence=field.has_presence,
        # The oneof of a field that is `optional` in proto3 begins with an underscore.
        oneof="" if oneof is None or oneof.name.startswith("_") else oneof.name,
        required=constraints.is_required(rules) or field_behavior_pb2.REQUIRED in behaviors,
        output_only=field_behavior_pb2.OUTPUT_ONLY in behaviors,
        hints=hints,
        attributes=_attributes(kind, scalar, rules),
    )


def _type_name(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.name)
    names = (name for name, number in vars(_F).items() if name.startswith("TYPE_") and number == field.type)
    return next(names).removeprefix("TYPE_").lower()


def _choices(field: FieldDescriptor) -> Sequence[str]:
    if field.type == _F.TYPE_BOOL:
        return ("false", "true")
    return [value.name for value in field.enum_type.values] if field.enum_type is not None else ()


def _attributes(kind: Kind, field: FieldDescriptor, rules: Rules) -> Mapping[str, str]:
    if kind is Kind.TEXT:
        return constraints.text_attributes(rules)
    if kind is Kind.INTEGER:
        low, high = (0, 2**32 - 1) if field.type in _UNSIGNED else (-(2**31), 2**31 - 1)
        return constraints.number_attributes(rules, low, high)
    return _ATTRIBUTES.get(kind, {})
