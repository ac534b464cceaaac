"""What is fuzzed. Names of targets are names of folders in the corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.fuzz import checks
from tests.fuzz.inputs import documents, lines, phrases
from tests.fuzz.samples import (
    ANSWER,
    CLAIMS,
    HEADER,
    HEADS,
    JWKS,
    METADATA,
    PAGE,
    REALM,
    SMALL_REALM,
    TOKEN,
    UPDATE,
    UUID,
    jws,
    page_tokens,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. `check` raises an exception if an input is handled wrongly."""

    name: str
    inputs: st.SearchStrategy[bytes]
    check: Callable[[bytes], object]


TARGETS = [
    Target(
        "token",
        phrases(TOKEN, "a", ".", "==", "-._~+/", "a" * 8200)
        | st.builds(jws, documents(HEADER), documents(CLAIMS)),
        checks.check_token,
    ),
    Target(
        "authorization",
        phrases("Bearer ", "bearer", "Basic ", "\n", TOKEN, "=", ",", "a" * 8200, "B\u212a"),
        checks.check_authorization,
    ),
    Target("claims", documents(CLAIMS), checks.check_claims),
    Target("jwt_header", documents(HEADER), checks.check_jwt),
    Target(
        "page_token",
        phrases("a", "_", "-", "=") | st.builds(page_tokens, documents([*PAGE, UUID], [PAGE[0], 1, UUID])),
        checks.check_page_token,
    ),
    Target(
        "filter",
        phrases(
            "email",
            "display_name",
            "state",
            "create_time",
            " = ",
            "!=",
            "<=",
            ":",
            " AND ",
            "ACTIVE",
            "a*",
            '"a b"',
            '"2026-01-31T12:00:00Z"',
            '"0001-01-01T00:00:00+23:59"',
            "(",
            ")",
            "%",
            "_",
        ),
        checks.check_filter,
    ),
    Target(
        "order_by", phrases("create_time", "email", "display_name", " desc", " asc", ","), checks.check_order
    ),
    Target(
        "field_mask",
        phrases("email", "display_name", "state", "*", ",", "user_id", "user.email"),
        checks.check_mask,
    ),
    # <part console>
    Target("call_form", documents(UPDATE), checks.check_call_form),
    # </part console>
    Target("realm", documents(SMALL_REALM, SMALL_REALM, REALM), checks.check_realm),
    Target("discovery", lines(HEADS, documents(METADATA)), checks.check_discovery),
    Target("keys", documents(JWKS), checks.check_keys),
    Target("introspection", lines(HEADS, documents(ANSWER)), checks.check_introspection),
]
