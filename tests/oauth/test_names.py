"""Compact sets of names, and the memory that cached principals take."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatehouse.oauth import VerifiedClaims
from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claims import ClaimsVerifier
from gatehouse.oauth._names import Names
from gatehouse.oauth.multi_issuer import CACHE_BYTES, CACHE_SIZE
from gatehouse.settings import IssuerSettings
from tests.support.oauth_issuers import AUDIENCE, EPOCH

CONFIG = IssuerSettings(issuer="https://issuer.test", audience=AUDIENCE, mode="jwt")


@given(st.lists(st.text(alphabet="ab \n\r\0é"), max_size=6), st.text(alphabet="ab \n\r\0é", max_size=3))
@example([], "")
@example(["a\nb"], "b")
@example(["a", "b"], "a\nb")
def test_names_behave_like_a_set(given_names: list[str], other: str) -> None:
    names = Names(given_names)
    expected = frozenset(name for name in given_names if name and "\n" not in name)

    assert set(names) == expected
    assert names == Names(sorted(expected))
    assert len(names) == len(expected)
    assert (other in names) == (other in expected)
    assert all(name in names for name in expected)
    assert not names.isdisjoint(expected) or not expected
    assert hash(names) == hash(Names(sorted(expected)))
    assert {"a", ""} & names == {"a", ""} & expected
    assert repr(names) == f"Names({sorted(expected)})"


def principal_claims(roles: int, **changes: Any) -> VerifiedClaims:
    """Return claims of a token with so many roles, parsed from JSON like those of every token."""
    claims = {
        "iss": CONFIG.issuer,
        "aud": AUDIENCE,
        "sub": "00000000-0000-4000-8000-0000000a11ce",
        "exp": EPOCH + 300,
        "typ": "Bearer",
        "azp": "console",
        "scope": "read:users",
        "realm_access": {"roles": [f"department-{n:03}-reader" for n in range(roles)]},
        "other": ["x" * 1000],
    }
    return VerifiedClaims(json.loads(json.dumps(claims | changes)))


@pytest.mark.parametrize(
    ("roles", "changes"),
    [(3, {}), (700, {}), (3, {"name": ["n" * 20] * 500}), (3, {"scope": "s " * 9}), (0, {})],
)
def test_size_of_a_principal_is_that_of_its_memory(roles: int, changes: dict[str, Any]) -> None:
    verifier = ClaimsVerifier(CONFIG, lambda: EPOCH)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [verifier.principal(principal_claims(roles, **changes)) for _ in range(50)]
        measured = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()

    assert 0.5 < kept[0].size() / measured < 2.0


def test_cache_holds_ten_thousand_usual_tokens_and_at_most_64_mib() -> None:
    verifier = ClaimsVerifier(CONFIG, lambda: EPOCH)
    usual, large = (verifier.principal(principal_claims(roles)).size() for roles in (50, 700))

    assert usual * CACHE_SIZE < CACHE_BYTES == 64 * 1024 * 1024
    assert large < 20_000
    cache: TokenCache[int] = TokenCache(CACHE_SIZE, lambda: 0.0, CACHE_BYTES)
    for number in range(CACHE_SIZE):
        cache.put(number.to_bytes(4, "big"), number, 30, large)
    assert len(cache) == CACHE_BYTES // large


def test_only_listed_claims_are_kept() -> None:
    config = CONFIG.model_copy(update={"claims": ("tenant", "absent")})
    principal = ClaimsVerifier(config, lambda: EPOCH).principal(
        principal_claims(1, tenant={"id": 7}, email="a")
    )

    assert principal.claims == {"tenant": {"id": 7}}
