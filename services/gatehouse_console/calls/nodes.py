"""A request as a form shows it: a tree of fields, made of what was sent, and turned into JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from gatehouse_console.calls.sent import ROOT, Sent
from gatehouse_console.calls.shapes import CONTAINERS, LISTS, Kind, Shape
from gatehouse_console.calls.values import value_error, value_of

MAX_NODES = 600
_MAX_DEPTH = 8
_UNIQUE = re.compile(r"[^A-Za-z0-9_]")


class TooLarge(Exception):
    """The request has more fields than a form shows."""


@dataclass(slots=True)
class Node:
    """A field in a form.

    Attributes:
        shape: What it is.
        name: Name of its input, such as `request[0].user.email`.
        is_set: Whether it is in the form; if not, a button adds it.
        text: Text of its input.
        children: The fields of a message, the items of a list or the entries of a map.
        errors: What is wrong with it.
        has_focus: Whether it gets the focus when the page opens.
    """

    shape: Shape
    name: str
    is_set: bool
    text: str = ""
    children: Sequence[Node] = ()
    errors: list[str] = field(default_factory=list)
    has_focus: bool = False

    @property
    def id(self) -> str:
        """Identifier of its element."""
        return _UNIQUE.sub("-", self.name)

    @property
    def is_leaf(self) -> bool:
        """Whether it has one input."""
        return self.shape.kind not in CONTAINERS

    @property
    def label(self) -> str:
        """Its name without those of the messages around it."""
        return self.name.rpartition(".")[2]

    @property
    def has_value(self) -> bool:
        """Whether it is in the request."""
        shape = self.shape
        if shape.kind in LISTS:
            return bool(self.children)
        if shape.kind in CONTAINERS or shape.is_item or shape.is_optional:
            return self.is_set
        # Without presence, the default is the same as not being set.
        default = shape.choices[0] if shape.choices and not shape.has_presence else ""
        return self.text not in {"", default}

    @property
    def choices(self) -> Sequence[str]:
        """Texts to choose from. With the empty one, it is not set."""
        shape = self.shape
        known = [*([""] if shape.is_nullable else []), *shape.choices]
        return known if self.text in known else [*known, self.text]

    @property
    def attributes(self) -> Mapping[str, str]:
        """Attributes of its input. Text that is no number needs an input that does not drop it."""
        attributes = self.shape.attributes
        if self.shape.kind is Kind.INTEGER and self.text and value_error(self.shape, self.text):
            return {"inputmode": "numeric"}
        return attributes

    @property
    def hints(self) -> Sequence[str]:
        """Its constraints in words, without those that an error repeats."""
        return [hint for hint in self.shape.hints if hint not in self.errors]

    @property
    def groups(self) -> Sequence[tuple[str, Sequence[Node]]]:
        """The fields of a message that a caller sets, by oneof."""
        return [(name, list(nodes)) for name, nodes in groupby(self._shown(output=False), _oneof)]

    @property
    def outputs(self) -> Sequence[Node]:
        """The fields of a message that the service ignores."""
        return list(self._shown(output=True))

    @property
    def is_used(self) -> bool:
        """Whether it, or a field in it, has a value or an error."""
        return self.has_value or any(True for node in self.walk() if node.errors)

    def walk(self) -> Iterator[Node]:
        """Yield this field and all fields in it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _shown(self, *, output: bool) -> Iterator[Node]:
        return (child for child in self.children if child.shape.output_only is output)


def _oneof(node: Node) -> str:
    return node.shape.oneof


def is_leaf(shape: Shape, name: str) -> bool:
    """Return whether a field has one input. Messages in messages in messages end as JSON."""
    return shape.kind not in CONTAINERS or name.count(".") > _MAX_DEPTH


def build(shape: Shape, sent: Sent) -> Node:
    """Return the form of a request.

    Args:
        shape: Its shape.
        sent: What was sent, or what it begins with.

    Raises:
        TooLarge: It has more fields than a form shows.
    """
    count = 0

    def grow(shape: Shape, name: str, sent: Sent | None, *, is_new: bool) -> Node:
        nonlocal count
        count += 1
        if count > MAX_NODES:
            raise TooLarge
        if sent is None and is_new and shape.required and shape.kind in CONTAINERS:
            sent = Sent(is_new=True, children={0: Sent(is_new=True)} if shape.kind is Kind.LIST else {})
        if is_leaf(shape, name):
            leaf = shape if shape.kind not in CONTAINERS else replace(shape, kind=Kind.JSON, message=None)
            first = leaf.choices[0] if leaf.choices and not leaf.is_nullable else ""
            text = sent.value if sent is not None else ""
            return Node(leaf, name, sent is not None or not leaf.is_optional, text or first)
        children: Sequence[Node] = ()
        is_new = sent is not None and sent.is_new
        if sent is not None and shape.element is not None:
            items = enumerate(sent.items())
            children = [grow(shape.element, f"{name}[{n}]", item, is_new=is_new) for n, item in items]
        elif sent is not None:
            children = [
                grow(inner, f"{name}.{inner.name}", sent.children.get(inner.name), is_new=is_new)
                for inner in shape.fields()
            ]
        return Node(shape, name, sent is not None, children=children)

    return grow(shape, ROOT, sent, is_new=False)


def to_json(node: Node) -> Any:
    """Return the value of a field as JSON."""
    kind, children = node.shape.kind, node.children
    if kind is Kind.LIST:
        return [to_json(child) for child in children]
    if kind is Kind.MAP:
        return {entry.children[0].text: to_json(entry.children[1]) for entry in children}
    if kind in CONTAINERS:
        return {child.shape.name: to_json(child) for child in children if child.has_value}
    return value_of(kind, node.text)


def check(root: Node) -> bool:
    """Note at each field whether its text is not of its type; return whether all are."""
    for node in root.walk():
        if node.shape.kind is Kind.MAP:
            keys = [entry.children[0].text for entry in node.children]
            for position, entry in enumerate(node.children):
                if keys[position] in keys[:position]:
                    entry.children[0].errors.append("this key occurs twice; change it")
        elif node.is_leaf and node.has_value:
            error = value_error(node.shape, node.text)
            node.errors += [error] if error else []
    return not any(node.errors for node in root.walk())


def place_violations(root: Node, position: int, violations: Sequence[tuple[str, str]]) -> None:
    """Note what a service has refused at the fields that it names, or at the messages around them.

    Args:
        root: The form.
        position: Number of the request that was refused.
        violations: Path and reason of each, such as `user.email` or `labels[*]`.
    """
    places: Mapping[str, Node] = {node.name: node for node in root.walk()}
    for path, reason in violations:
        name = f"{ROOT}[{position}].{path.partition('[*]')[0]}"
        while name not in places:
            name = name[: max(name.rfind("."), name.rfind("["))]
        places[name].errors.append(reason)
