"""Where a text needs which spelling of a project's name."""

from __future__ import annotations

import re
import tokenize
from io import StringIO

from tools.fork.names import OLD, Names

# What stands before the name of the Python package where neither a letter, `.`, `/` nor `_` follows it.
_BEFORE_PACKAGE = (
    r"\b(from|import|module) ",
    r'-m( |", ")',
    r'[Ss]ervices"? ?/ ?"?|SERVICES / "|protos/',
    # Identifiers in examples and f-strings.
    r"(?<!\$)\(|\{",
    # The database, its login roles and their prefix.
    r'dbname=|POSTGRES_DB: |DATABASE( = "| )?|database(: | `)|:\d+/|//[^/\s]*@[^/\s]*/',
    r'prefix: \w+ = "|PREFIX` \| `"',
    # Loggers, fixtures of pytest, and lists of packages.
    r'getLogger\("|LogRecord\("|DEBUG, "|get(group)?\("|fixtures? `|^ROOT = "|root_packages = \["',
    r'source ?= ?\["|--source=',
    # A pattern for metrics, and what a wheel has.
    r'\(\?:|"(buf|production|keyring)", "',
)
_IS_PACKAGE = re.compile(f"({'|'.join(_BEFORE_PACKAGE)})$")
# The argument of `python -m` on a line of its own.
_IS_MODULE = re.compile(r'"-m",\s+"$')
# What stands before the name of a realm, a command, an image, a folder outside the repository or a DNS name.
_IS_DASHED = re.compile(
    r"""(realms/|realm[ =]"?|image: |(?<!"services" )(?<!SERVICES )/ "|"""
    r"""(run|opt|etc|bin|build|cache|state|\.com|acme)/|-[$\w]+\.|job=~\\?")$"""
)


def _spelling(names: Names, text: str, start: int, end: int, *, is_identifier: bool) -> str:
    """Return the spelling that replaces `text[start:end]`."""
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    before, after = text[line_start:start], text[end : line_end if line_end >= 0 else len(text)]
    word, last, following = text[start:end], before[-1:], after[:1]
    if word.isupper():
        return names.variable
    if word[0].isupper():
        return (
            names.class_name
            if following.isalnum() or last.isalnum() or following in {"_", "\\"}
            else names.title
        )
    if is_identifier or last == "_" or following == "_":
        return names.package
    if (last == "-" and not before.endswith(" -")) or re.match(r"-\w", after) or _IS_DASHED.search(before):
        return names.dashed
    if (
        re.match(r'\\?\.[\w{*"\\$]|/[\w$]|", \["production', after)
        or (last == "." and before[-2:-1].isalnum())
        or _IS_PACKAGE.search(before)
        or _IS_MODULE.search(text[max(0, start - 80) : start])
    ):
        return names.package
    return names.dashed


def _identifiers(text: str) -> set[int]:
    """Return the offsets of all names in Python code that are not in strings or comments."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    return {
        starts[t.start[0] - 1] + t.start[1] for t in tokens if t.type == tokenize.NAME and t.string == OLD
    }


def rename(text: str, names: Names, *, is_python: bool = False) -> str:
    """Return a text with every spelling of the old name replaced."""
    if names.title[0] in "AEIO":
        text = re.sub(rf"\b([Aa]) (?=`?{OLD})", r"\1n ", text, flags=re.IGNORECASE)
    identifiers = _identifiers(text) if is_python else set()

    def replace(match: re.Match[str]) -> str:
        is_identifier = match.start() in identifiers
        return _spelling(names, text, match.start(), match.end(), is_identifier=is_identifier)

    return re.sub(OLD, replace, text, flags=re.IGNORECASE)
