"""Strategies of inputs: valid ones, changed in a few places, as bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

# It is in many inputs and must be in no error.
CANARY = "Canary7f3a"
MAX_BYTES = 70_000
_PLACEHOLDER = "@raw@"
# JSON that `json.dumps` does not write.
_RAW_VALUES = [
    b"1e999",
    b"-1e999",
    b"-0.0",
    b"NaN",
    b"-Infinity",
    b"1" * 5_000,
    b"0.1",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b'{"a":1,"a":2}',
    b"[" * 950 + b"]" * 950,
    b'{"a":' * 60 + b"1" + b"}" * 60,
    b'{"a":' * 950 + b"1" + b"}" * 950,
    b"[" * 20_000 + b"]" * 20_000,
    b'"' + b"a " * 20_000 + b'"',
]
_FRAGMENTS = [
    b"\0",
    b"\n",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\",
    b'"',
    b"{",
    b"[",
    b",",
    b" ",
    b"\xc2\xa0",
    *_RAW_VALUES,
]

_texts = st.one_of(
    st.text(max_size=8), st.sampled_from(["", " ", CANARY, "a\n" + CANARY, "a" * 300, "é\u212a"])
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, _PLACEHOLDER]),
        st.floats(),
        _texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)),
    max_leaves=8,
)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return each container with each of its keys or positions."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    for one in waiting:  # which grows
        keys = one.keys() if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


@st.composite
def documents(draw: st.DrawFn, *seeds: Any) -> bytes:
    """A JSON document with some values replaced, removed or added, and sometimes with damaged bytes."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(document)
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            container[key] = draw(values)
        elif action == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(_texts)] = draw(values)
        else:
            container += container[key : key + 1] * draw(st.sampled_from([1, 2, 100]))
    raw = json.dumps(document).encode()
    if draw(st.integers(0, 3)) == 0:
        raw = raw.replace(json.dumps(_PLACEHOLDER).encode(), draw(st.sampled_from(_RAW_VALUES)))
    return draw(damaged(raw)) if draw(st.integers(0, 4)) == 0 else raw[:MAX_BYTES]


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes with one slice removed, repeated or replaced."""
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 64)))
    middle = draw(
        st.one_of(
            st.just(b""),
            st.binary(max_size=4),
            st.sampled_from(_FRAGMENTS),
            st.builds(lambda n: raw[start:end] * n, st.sampled_from([2, 50, 1000])),
        )
    )
    return (raw[:start] + middle + raw[end:])[:MAX_BYTES]


@st.composite
def phrases(draw: st.DrawFn, *words: str) -> bytes:
    """Text made of `words` and other text, in UTF-8; sometimes with damaged bytes."""
    word = st.one_of(
        st.sampled_from([*words, CANARY]), st.sampled_from([" ", "\t", "\u00a0", "\0", '"', "\\"])
    )
    parts = draw(st.lists(st.one_of(word, word, st.text(max_size=4)), max_size=12))
    times = draw(st.sampled_from([1, 1, 1, 1, 30, 3000]))
    raw = "".join(parts).encode()
    raw *= min(times, MAX_BYTES // (len(raw) or 1) + 1)
    raw = raw[:MAX_BYTES]
    return draw(damaged(raw)) if draw(st.integers(0, 4)) == 0 else raw


def lines(heads: Sequence[str], body: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A first line, from `heads` or like them, and a body."""
    return st.builds(lambda head, rest: head.replace(b"\n", b"") + b"\n" + rest, phrases(*heads), body) | (
        st.builds(lambda head, rest: head.encode() + b"\n" + rest, st.sampled_from(heads), body)
    )


def variants(raw: bytes, count: int) -> Iterator[bytes]:
    """Yield `count` inputs that differ from `raw` in some bytes: 50 times as fast as drawing new ones."""
    random = Random(raw)
    for _ in range(count):
        changed = bytearray(raw)
        for _ in range(random.randint(1, 3)):
            start = random.randint(0, len(changed))
            end = min(len(changed), start + random.choice([0, 1, 1, 2, 8, 64]))
            other = random.randint(0, len(changed))
            changed[start:end] = random.choice(
                [
                    b"",
                    random.randbytes(1),
                    bytes([random.randint(32, 126)]),
                    bytes(changed[other : other + random.randint(1, 32)]),
                    random.choice(_FRAGMENTS),
                ]
            )
        yield bytes(changed[:MAX_BYTES])
