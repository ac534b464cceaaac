"""What a form has sent, as a tree: `request[0].user.email=a@example.com` is three levels deep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ROOT = "request"
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]{1,4})\]")
_MAX_STEPS = 64


@dataclass(slots=True)
class Sent:
    """The value of one input, or the values below it.

    Attributes:
        value: The text of an input.
        children: What is below it, by name of a field or position in a list.
        is_new: Whether it was added just now: its required fields are added too.
    """

    value: str = ""
    children: dict[str | int, Sent] = field(default_factory=dict)
    is_new: bool = False

    def items(self) -> list[Sent]:
        """Return the items of a list in their order."""
        numbered = [(key, child) for key, child in self.children.items() if isinstance(key, int)]
        return [child for _, child in sorted(numbered, key=lambda pair: pair[0])]


def list_of(items: Iterable[Sent]) -> Sent:
    """Return a list of items."""
    return Sent(children=dict(enumerate(items)))


def read_fields(form: Mapping[str, str]) -> Sent:
    """Return what the fields of a form with the name ROOT say. Names that are no paths are ignored."""
    root = Sent()
    for name, value in form.items():
        steps = _steps(name)
        if steps is not None:
            node = root
            for step in steps:
                node = node.children.setdefault(step, Sent())
            node.value = value
    return root


def edit(root: Sent, operations: str) -> str:
    """Add and remove fields.

    Args:
        root: The request, which is changed.
        operations: Such as `remove:request[0].a add:request[0].b`, separated by spaces.

    Returns:
        The path of the field that was added last, or of the list or message from which one was removed.
    """
    changed = ""
    for operation in operations.split(" "):
        verb, _, path = operation.partition(":")
        steps = _steps(path)
        if not steps:
            continue
        *parents, last = steps
        node = root
        for step in parents:
            node = node.children.setdefault(step, Sent())
        if verb == "add":
            node.children[last] = Sent(is_new=True)
            changed = path
        elif verb == "remove":
            node.children.pop(last, None)
            changed = path[: -len(f"[{last}]")] if isinstance(last, int) else path
    return changed


def _steps(name: str) -> list[str | int] | None:
    """Return the steps of a path below ROOT, None if it is none."""
    steps: list[str | int] = []
    position = len(ROOT) if name.startswith(ROOT) else -1
    while 0 <= position < len(name) and len(steps) < _MAX_STEPS:
        step = _STEP.match(name, position)
        if step is None:
            return None
        steps.append(step[1] or int(step[2]))
        position = step.end()
    return steps if position == len(name) else None
