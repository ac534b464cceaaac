"""The name that a misspelled or abbreviated one is probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SIMILAR = 0.8


def printable(text: str) -> str:
    """Return text on one line that cannot control a terminal: other characters are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, names: Iterable[str], *, separator: str = "__", cutoff: float = _SIMILAR) -> str:
    """Return the nearest of `names`, an empty string if none is near.

    First comes a name in the same section whose words `name` abbreviates: `tls__cert_file` is
    `tls__certificate_file`, not `tls__ca_file`, which has fewer other letters.

    Args:
        name: The name.
        names: Existing names.
        separator: What separates sections.
        cutoff: Smallest similarity of names that are not abbreviated, from 0 to 1.
    """
    candidates = list(names)
    section, _, last = name.rpartition(separator)
    abbreviated = [
        candidate
        for candidate in candidates
        if candidate.rpartition(separator)[0] == section
        and abbreviates(last, candidate.rpartition(separator)[2])
    ]
    if abbreviated:
        return min(abbreviated, key=lambda candidate: (candidate.count("_"), len(candidate)))
    return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)), "")


def abbreviates(short: str, long: str) -> bool:
    """Return whether each word of `short` abbreviates a word of `long`, in this order."""
    words = iter(long.split("_"))
    return all(any(_abbreviates_word(word, other) for other in words) for word in short.split("_"))


def _abbreviates_word(short: str, long: str) -> bool:
    """Return whether a word begins as another one and has its letters in the same order: `db`, `database`."""
    letters = iter(long)
    return bool(short) and short[0] == long[:1] and all(letter in letters for letter in short)
