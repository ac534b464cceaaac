"""The bounded token cache: expiry, eviction, and keys that do not reveal the token."""

from __future__ import annotations

import gc
import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.oauth._cache import TokenCache, TokenHasher
from tests.support.oauth_issuers import ManualTime

HASH = TokenHasher().hash


def test_entry_expires_exactly_at_the_end_of_its_lifetime(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(10, manual_time.monotonic)
    key = HASH("token")
    cache.put(key, "value", 30)

    manual_time.advance(29.999)
    assert cache.get(key) == "value"
    manual_time.advance(0.001)
    assert cache.get(key) is None
    assert len(cache) == 0


def test_least_recently_used_entry_is_evicted_first(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(3, manual_time.monotonic)
    keys = [HASH(f"token-{number}") for number in range(4)]
    for key in keys[:3]:
        cache.put(key, "value", 30)
    assert cache.get(keys[0])
    cache.put(keys[3], "value", 30)

    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]


def test_total_size_is_limited(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(10, manual_time.monotonic, max_bytes=100)
    keys = [HASH(f"token-{number}") for number in range(5)]
    for key in keys[:4]:
        cache.put(key, "value", 30, 25)
    cache.put(keys[0], "replaced", 30, 25)
    assert len(cache) == 4

    cache.put(keys[4], "value", 30, 50)  # evicts the two that were used longest ago
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True, True]
    manual_time.advance(30)
    assert cache.get(keys[4]) is None
    cache.put(keys[1], "value", 30, 51)  # the expired ones still count
    assert len(cache) == 2
    cache.put(keys[2], "value", 30, 101)
    assert len(cache) == 0


def test_entries_without_a_size_do_not_count_against_the_total_size(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(10, manual_time.monotonic, max_bytes=2)
    for number in range(4):
        cache.put(HASH(f"token-{number}"), "value", 30)
    assert len(cache) == 4

    cache.put(HASH("large"), "value", 30, 3)
    assert cache.get(HASH("large")) is None


@pytest.mark.parametrize("seconds", [0, -1, -0.001])
def test_value_without_lifetime_is_not_stored(seconds: float, manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(3, manual_time.monotonic)
    key = HASH("token")
    cache.put(key, "old", 30)
    cache.put(key, "new", seconds)

    assert len(cache) == 0
    assert cache.get(key) is None


def test_discarding_a_missing_entry_does_nothing(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(3, manual_time.monotonic)
    cache.discard(HASH("token"))

    assert len(cache) == 0


def test_hash_depends_on_the_secret_of_the_hasher() -> None:
    assert TokenHasher().hash("token") != TokenHasher().hash("token")


def test_hash_is_stable_and_has_a_fixed_size() -> None:
    assert HASH("token") == HASH("token")
    assert {len(HASH("x" * size)) for size in (0, 1, 100, 8192)} == {32}
    assert len({HASH(token) for token in ("token", "token ", "toke", "Token")}) == 4


def test_cache_contains_no_token(manual_time: ManualTime) -> None:
    cache: TokenCache[str] = TokenCache(10, manual_time.monotonic)
    for number in range(10):
        cache.put(HASH(f"canary-{number}"), "value", 30)

    assert b"canary" not in pickle.dumps(cache._entries)
    assert not any(isinstance(held, str) and "canary" in held for held in gc.get_referents(cache._entries))


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["get", "put", "discard", "wait"]),
            st.integers(0, 6),
            st.floats(-1, 10, allow_nan=False),
        )
    )
)
def test_cache_behaves_like_its_model(steps: list[tuple[str, int, float]]) -> None:
    time = ManualTime()
    cache: TokenCache[str] = TokenCache(4, time.monotonic)
    keys = [HASH(str(number)) for number in range(7)]
    model: OrderedDict[int, tuple[str, float]] = OrderedDict()
    for count, (step, number, seconds) in enumerate(steps):
        if step == "wait":
            time.advance(abs(seconds))
        elif step == "discard":
            cache.discard(keys[number])
            model.pop(number, None)
        elif step == "put":
            cache.put(keys[number], str(count), seconds)
            model.pop(number, None)
            if seconds > 0:
                model[number] = (str(count), time.monotonic() + seconds)
                if len(model) > 4:
                    model.popitem(last=False)
        else:
            value, end = model.get(number, (None, 0.0))
            if value is not None and time.monotonic() >= end:
                del model[number]
                value = None
            elif value is not None:
                model.move_to_end(number)
            assert cache.get(keys[number]) == value
        assert len(cache) == len(model) <= 4
