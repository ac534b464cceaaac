"""Regular expressions of protovalidate (RE2) as the attribute `pattern` of an input.

Browsers compile the attribute with the flag `v`, report one that they cannot compile as an error in their
console, and anchor it at both ends. Expressions outside of the common syntax become no attribute.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<class>\[\^?(?:\\.|[^\]\\])+\])
    | \\(?:x[0-9a-fA-F]{2}|[dDwWsSbBtnrfv]|[][(){}|/\\^$.*+?-])
    | \(\?: | \((?!\?)
    | [^\\[\]{}(?*+]
    | [?*+]\??(?![?*+])
    | \{[0-9]+(?:,[0-9]*)?\}\??
    """,
    re.VERBOSE,
)
_MEMBER = re.compile(r"\\(?:x[0-9a-fA-F]{2}|[dDwWsStnrfv]|[][(){}|/\\^$.*+?-])|[^\\]")
# Characters that the flag `v` has escaped in a class, and pairs of which it reserves.
_ESCAPED = frozenset("()[]{}/|")
_RESERVED = frozenset("&!#$%*+,.:;<=>?@^`~")


def html_pattern(expression: str) -> str | None:
    """Return a pattern for all texts that contain a match of an RE2 expression, or None."""
    translated, position = "", 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            return None
        text = token[0]
        if token["class"]:
            found = _translate_class(text)
            if found is None:
                return None
            text = found
        translated += text
        position = token.end()
    return f".*(?:{translated}).*"


def _translate_class(text: str) -> str | None:
    """Escape what the flag `v` needs escaped in a class."""
    inner = text[1:-1]
    negated = inner.startswith("^")
    inner = inner.removeprefix("^")
    members: list[str] = []
    position = 0
    while position < len(inner):
        member = _MEMBER.match(inner, position)
        if member is None:
            return None
        position = member.end()
        edge = not members or position == len(inner)
        value = member[0]
        if value in _ESCAPED or (value == "-" and edge):
            value = f"\\{value}"
        if members and value == members[-1] and value in _RESERVED:
            return None
        members.append(value)
    return f"[{'^' if negated else ''}{''.join(members)}]"
