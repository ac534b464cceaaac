"""Hostile claims: types, dates and identities; the signatures are valid."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.hostile.forge import Make, Row, forged

REGISTERED = "RFC 7519 section 4.1"
NUMERIC_DATE = "RFC 7519 section 2"
# For each claim, the reason for which a value of another type is refused, and its right types.
TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "iss": ("issuer_unknown", (str,)),
    "sub": ("subject_missing", (str,)),
    "aud": ("audience_mismatch", (str, list)),
    "exp": ("claim_malformed", (int, float)),
    "nbf": ("claim_malformed", (int, float)),
    "iat": ("claim_malformed", (int, float)),
    "auth_time": ("claim_malformed", (int, float)),
    "jti": ("claim_malformed", (str,)),
    "cnf": ("proof_of_possession_missing", (type(None),)),
    "typ": ("token_type_mismatch", ()),
    # A right of another type is not a right.
    "scope": ("insufficient_scope", ()),
    "realm_access": ("role_missing", ()),
    "acr": ("acr_mismatch", ()),
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    7,
    1.5,
    "canary",
    "1900000000",
    [],
    ["use:probe", "mfa"],
    [[]],
    {},
    {"canary": 1},
)


def types() -> Iterator[Row]:
    for name, (reason, right) in TYPES.items():
        for value in VALUES:
            if type(value) in right:
                continue
            yield Row(
                f"{name} is {json.dumps(value)}",
                REGISTERED,
                forged(claims={name: value}),
                reason,
            )
    missing = {
        "iss": "issuer_unknown",
        "sub": "subject_missing",
        "aud": "audience_mismatch",
        "exp": "expiry_missing",
        "typ": "token_type_mismatch",
        "scope": "insufficient_scope",
        "realm_access": "role_missing",
        "acr": "acr_mismatch",
        "auth_time": "login_too_old",
        "iat": "",
        "jti": "",
        "azp": "",
    }
    for name, reason in missing.items():
        yield Row(f"no {name}", "RFC 9068 section 2.2", forged(claims={name: ...}), reason)


def _number(name: str, text: str) -> Make:
    """Return a maker of a token in which a claim is a number that Python would write in another way."""
    return lambda f: f.token(claims=json.dumps(f.claims(**{name: 12345})).replace("12345", text).encode())


def _in_seconds(name: str, seconds: float) -> Make:
    return lambda f: f.token(claims={name: time.time() + seconds})


def malformed_dates() -> Iterator[Row]:
    source = NUMERIC_DATE
    for name in ("exp", "nbf", "iat", "auth_time"):
        for text in ("-1", "-0.5", "-1e300", "1e400", "-1e400", "1" + "0" * 400):
            label = text if len(text) < 9 else "1 with 400 zeros"
            yield Row(f"{name} is {label}", source, _number(name, text), "claim_malformed")
        for text in ("NaN", "Infinity", "-Infinity"):
            yield Row(f"{name} is {text}", source, _number(name, text), "token_malformed")


def dates() -> Iterator[Row]:
    source = NUMERIC_DATE
    for name in ("nbf", "iat", "auth_time"):
        for text in ("1e300", "99999999999", str(2**63)):
            yield Row(f"{name} is {text}", source, _number(name, text), "token_not_yet_valid")
        yield Row(f"{name} is in 90 seconds", source, _in_seconds(name, 90), "token_not_yet_valid")
        yield Row(
            f"{name} is in 30 seconds, within the leeway",
            source,
            _in_seconds(name, 30),
        )
    for ago in (60.5, 3600, 1e9):
        yield Row(
            f"exp was {ago} seconds ago",
            source,
            _in_seconds("exp", -ago),
            "token_expired",
        )
    for text in ("0", "-0.0", "0.0", "1e-400"):
        yield Row(f"exp is {text}", source, _number("exp", text), "token_expired")
    yield Row(
        "exp was 30 seconds ago, within the leeway",
        source,
        lambda f: f.token(claims={"exp": time.time() - 30}),
    )
    yield Row("exp in milliseconds", source, lambda f: f.token(claims={"exp": (time.time() + 300) * 1000}))
    for text in ("1e300", "9007199254740993", str(2**63)):
        yield Row(f"exp is {text}", source, _number("exp", text))
    for name in ("nbf", "iat"):
        yield Row(f"{name} is 0", source, _number(name, "0"))
    yield Row(
        "decimals",
        source,
        lambda f: f.token(claims={n: time.time() - 0.25 for n in ("nbf", "iat", "auth_time")}),
    )
    yield Row("exponents", source, _number("nbf", "1.7e9"))
    yield Row(
        "login 601 seconds ago",
        "RFC 9470 section 3",
        lambda f: f.token(claims={"auth_time": time.time() - 601}),
        "login_too_old",
    )
    yield Row("login at 0", "RFC 9470 section 3", _number("auth_time", "0"), "login_too_old")
    yield Row(
        "login 300.5 seconds ago",
        "RFC 9470 section 3",
        lambda f: f.token(claims={"auth_time": time.time() - 300.5}),
    )


def identities() -> Iterator[Row]:
    subjects = {
        "empty": ("", "subject_missing"),
        "256 characters": ("s" * 256, "subject_malformed"),
        "NUL": ("canary\0", "subject_malformed"),
        "line break": ("canary\nlevel=error", "subject_malformed"),
        "terminal escape": ("\x1b[2Jcanary", "subject_malformed"),
        "right-to-left override": ("canary\u202e", "subject_malformed"),
        "zero-width space": ("ali\u200bce", "subject_malformed"),
        "255 characters": ("s" * 255, ""),
        "letters beyond ASCII": ("jos\u00e9", ""),
    }
    for label, (subject, reason) in subjects.items():
        yield Row(
            f"sub: {label}",
            "OpenID Connect Core section 2",
            forged(claims={"sub": subject}),
            reason,
        )
    clients = {
        "256 characters": "c" * 256,
        "line break": "canary\nlevel=error",
        "terminal escape": "\x1b[2Jcanary",
        "right-to-left override": "canary\u202e",
    }
    for label, client in clients.items():
        yield Row(
            f"azp: {label}",
            "RFC 6749 appendix A.1",
            forged(claims={"azp": client}),
            "client_malformed",
        )
    actors: dict[str, Any] = {
        "no object": "canary",
        "null": None,
        "without sub": {},
        "list": {"sub": ["canary"]},
        "line break": {"sub": "canary\nlevel=error"},
        "issuer with a line break": {"sub": "a", "iss": "canary\nlevel=error"},
        "issuer that is no text": {"sub": "a", "iss": 7},
        "256 characters": {"sub": "s" * 256},
    }
    for label, act in actors.items():
        yield Row(f"act: {label}", "RFC 8693 section 4.1", forged(claims={"act": act}), "actor_malformed")


ROWS = [*types(), *malformed_dates(), *dates(), *identities()]
