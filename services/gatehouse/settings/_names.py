"""The name that a misspelled or abbreviated one is probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Ratios of difflib.
_SIMILAR = 0.8
_VERY_SIMILAR = 0.85
_LEVEL = "__"


def printable(text: str) -> str:
    """Return text on one line that cannot control a terminal: other characters are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the nearest of `names`, an empty string if none is near.

    First comes a name whose words `name` abbreviates: `cert_file` is `certificate_file`, not `ca_file`, which
    has fewer other letters.
    """
    candidates = list(names)
    abbreviated = [candidate for candidate in candidates if _abbreviates(name, candidate)]
    if abbreviated:
        return min(abbreviated, key=lambda candidate: (candidate.count("_"), len(candidate)))
    return _most_similar(name, candidates)


def nearest_setting(name: str, settings: Sequence[str]) -> str:
    """Return the setting that an unknown name with levels is probably meant to be, otherwise an empty string.

    Args:
        name: Such as `sever__host`.
        settings: Names of all settings and sections.
    """
    section, _, key = name.rpartition(_LEVEL)
    in_section = nearest(section, dict.fromkeys(_section_of(s) for s in settings))
    return (
        _with_other_levels(name, settings)
        or _nearest_in(in_section, key, settings)
        or _in_another_section(section, key, settings)
        or _most_similar(name, settings)
    )


def nearest_setting_without_levels(name: str, settings: Sequence[str], others: Iterable[str]) -> str:
    """Return the setting that an unknown name without levels is probably meant to be, or an empty string.

    Only a name that resembles a setting closely has one, because other programs use such names too.

    Args:
        name: Such as `tls_cert_file`.
        settings: Names of all settings and sections.
        others: Names of variables that are not settings.
    """
    first, _, rest = name.partition("_")
    sections = [setting for setting in settings if _LEVEL not in setting]
    section = _most_similar(first, sections)
    inner = {_flat(s.removeprefix(f"{section}__")): s for s in settings if s.startswith(f"{section}__")}
    short = [key for key in inner if key.count("_") == rest.count("_") and _abbreviates(rest, key)]
    if rest in inner:
        return inner[rest]
    if short and section == first:
        return inner[short[0]]
    return (
        (_with_other_levels(name, settings) if rest else "")
        or _most_similar(name, sections)
        or _most_similar(name, others, cutoff=_VERY_SIMILAR)
    )


def _with_other_levels(name: str, settings: Iterable[str]) -> str:
    """Return the setting whose levels, or only its last one, have the same words: `users__database__url`."""
    words = _flat(name)
    return next((s for s in settings if words in {_flat(s), s.rpartition(_LEVEL)[2]}), "")


def _nearest_in(section: str, key: str, settings: Iterable[str]) -> str:
    """Return the setting in a section, or in a section inside it, with this key or the nearest one."""
    deeper = [s for s in settings if s.startswith(f"{section}{_LEVEL}") and s.endswith(f"{_LEVEL}{key}")]
    if deeper and key:
        return deeper[0]
    found = nearest(key, [s.rpartition(_LEVEL)[2] for s in settings if _section_of(s) == section])
    return f"{section}{_LEVEL}{found}" if section and found else ""


def _in_another_section(section: str, key: str, settings: Sequence[str]) -> str:
    """Return the setting with this key, or the nearest one, in the section whose name is nearest."""
    keys = {s: (s.rpartition(_LEVEL)[2], _flat(s)) for s in settings if _LEVEL in s}
    meant = _most_similar(key, {other for both in keys.values() for other in both})
    same = [s for s, both in keys.items() if meant in both]
    return max(same, key=lambda s: _similarity(section, _section_of(s)), default="")


def _section_of(setting: str) -> str:
    return setting.rpartition(_LEVEL)[0]


def _flat(name: str) -> str:
    return "_".join(filter(None, name.split("_")))


def _most_similar(name: str, names: Iterable[str], *, cutoff: float = _SIMILAR) -> str:
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), "")


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _abbreviates(short: str, long: str) -> bool:
    """Return whether each word of `short` abbreviates a word of `long`, in this order."""
    words = iter(long.split("_"))
    return all(any(_abbreviates_word(word, other) for other in words) for word in short.split("_"))


def _abbreviates_word(short: str, long: str) -> bool:
    """Return whether a word begins as another one and has its letters in the same order: `db`, `database`."""
    letters = iter(long)
    return bool(short) and short[0] == long[:1] and all(letter in letters for letter in short)
