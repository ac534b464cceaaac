"""Introspection responses that lie about the token, or are no valid response at all (RFC 7662)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.claims import TYPES, VALUES
from tests.support.loopback_http import Reply

Answer = Callable[[dict[str, Any]], Mapping[str, Any] | Reply]


@dataclass(frozen=True)
class AnswerRow:
    """One introspection response.

    Attributes:
        name: What it is.
        source: RFC section, CVE or well-known attack that it comes from.
        answer: Makes it from a truthful response.
        opaque: Why an opaque token is refused; "" if it is valid, "outage" if nothing is known about it.
        hybrid: Why a signed token is refused in mode `hybrid`.
        claims: Changes to the claims of the signed token.
    """

    name: str
    source: str
    answer: Answer = field(repr=False)
    opaque: str
    hybrid: str
    claims: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _changed(**changes: Any) -> Answer:
    """Return a maker of a response with `changes`; `...` removes a member."""
    return lambda truth: {k: v for k, v in (truth | changes).items() if v is not ...}


def _fixed(reply: Reply) -> Answer:
    return lambda _: reply


def _row(name: str, source: str, changes: dict[str, Any], reason: str) -> AnswerRow:
    return AnswerRow(name, source, _changed(**changes), reason, reason)


def active() -> Iterator[AnswerRow]:
    for value in (False, None, "true", "True", "1", "", 1, 1.0, 0, [], [True], {}, {"active": True}):
        yield _row(
            f"active is {json.dumps(value)}", "RFC 7662 section 2.2", {"active": value}, "token_inactive"
        )
    yield _row("no active", "RFC 7662 section 2.2", {"active": ...}, "outage")
    yield _row("Active", "RFC 7662 section 2.2", {"active": ..., "Active": True}, "outage")
    yield AnswerRow("truthful", "RFC 7662 section 2.2", _changed(), "", "")
    yield _row("members that are not known", "RFC 7662 section 2.2", {"canary": {"a": [1]}, "error": "x"}, "")


def claims() -> Iterator[AnswerRow]:
    source = "RFC 7662 section 4"
    for name, (reason, right) in TYPES.items():
        if name in {"iss", "acr", "scope", "realm_access"}:
            continue
        for value in VALUES:
            if type(value) not in right:
                yield _row(f"{name} is {json.dumps(value)}", source, {name: value}, reason)
    for value in (None, "", 7, True, [], ["canary"], "https://canary.evil.test"):
        yield _row(f"iss is {value!r}", source, {"iss": value}, "issuer_mismatch")
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "no exp": ({"exp": ...}, "expiry_missing"),
        "no aud": ({"aud": ...}, "audience_mismatch"),
        "no sub": ({"sub": ...}, "subject_missing"),
        "no typ": ({"typ": ...}, "token_type_mismatch"),
        "other audience": ({"aud": ["canary-api", "account"]}, "audience_mismatch"),
        "list with a number": ({"aud": ["gatehouse-api", 1]}, "audience_mismatch"),
        "expired": ({"exp": 1e9}, "token_expired"),
        "not yet valid": ({"nbf": 4e9}, "token_not_yet_valid"),
        "issued in the future": ({"iat": 4e9}, "token_not_yet_valid"),
        "login in the future": ({"auth_time": 4e9}, "token_not_yet_valid"),
        "refresh token": ({"typ": "Refresh"}, "token_type_mismatch"),
        "ID token": ({"typ": "ID"}, "token_type_mismatch"),
        "token_type DPoP": ({"token_type": "DPoP"}, "token_type_mismatch"),
        "token_type mac": ({"token_type": "mac"}, "token_type_mismatch"),
        "token_type refresh_token": ({"token_type": "refresh_token"}, "token_type_mismatch"),
        "token_type of another type": ({"token_type": ["Bearer"]}, "token_type_mismatch"),
        "bound to a key": ({"cnf": {"jkt": "canary"}}, "proof_of_possession_missing"),
        "subject with a line break": ({"sub": "canary\nlevel=error"}, "subject_malformed"),
        "actor with a line break": ({"act": {"sub": "canary\nlevel=error"}}, "actor_malformed"),
        "client with a line break": ({"azp": "canary\nlevel=error"}, "client_malformed"),
        "roles as a string": ({"realm_access": {"roles": "operator"}}, "role_missing"),
        "no roles": ({"realm_access": ...}, "role_missing"),
        "no iss": ({"iss": ...}, ""),
        "token_type bearer": ({"token_type": "bearer"}, ""),
        "token_type is null": ({"token_type": None}, ""),
        "exp with decimals": ({"exp": 4e9 + 0.25}, ""),
        "no client": ({"azp": ..., "client_id": ...}, ""),
    }
    for name, (change, reason) in changes.items():
        yield _row(name, source, change, reason)


def mismatches() -> Iterator[AnswerRow]:
    """Responses about another token: an opaque token cannot show that, a signed one can."""
    source = "RFC 7662 section 4, mix-up of responses"
    yield AnswerRow("other subject", source, _changed(sub="canary-admin"), "", "subject_mismatch")
    yield AnswerRow("other client", source, _changed(azp="canary-admin"), "", "client_mismatch")
    yield AnswerRow(
        "other client_id", source, _changed(azp=..., client_id="canary-admin"), "", "client_mismatch"
    )
    yield AnswerRow(
        "scope that the token lacks",
        "privilege escalation",
        _changed(scope="use:probe"),
        "",
        "insufficient_scope",
        {"scope": "other"},
    )
    yield AnswerRow(
        "scope as a list", "RFC 7662 section 2.2", _changed(scope=["use:probe"]), "insufficient_scope", ""
    )
    yield AnswerRow(
        "role that the token lacks", "roles are the current ones", _changed(), "", "", {"realm_access": ...}
    )
    yield AnswerRow(
        "longer life than the token",
        "RFC 7662 section 4",
        _changed(exp=4e9),
        "",
        "token_expired",
        {"exp": 1e9},
    )


def documents() -> Iterator[AnswerRow]:
    source = "RFC 7662 section 2.3"
    true = {"active": True}
    replies: dict[str, Reply] = {
        "empty": Reply(b""),
        "HTML": Reply(b"<html>canary</html>", headers={"content-type": "text/html"}),
        "JSON as text": Reply(true, headers={"content-type": "text/plain"}),
        "array": Reply([true]),
        "string": Reply("canary"),
        "null": Reply(None),
        "active twice": Reply(b'{"active":false,"active":true}'),
        "NaN": Reply(b'{"active":true,"exp":NaN}'),
        "byte order mark": Reply(b'\xef\xbb\xbf{"active":true}'),
        "invalid UTF-8": Reply(b'{"active":true,"a":"\xff"}'),
        "deep nesting": Reply(b'{"active":true,"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
        "a JWT": Reply(b"canary", headers={"content-type": "application/token-introspection+jwt"}),
        "70 KB": Reply(b'{"active":true,"a":"' + b"a" * 70_000 + b'"}'),
        "compressed": Reply(true, headers={"content-encoding": "gzip"}),
        "redirect": Reply(true, 302, {"location": "/canary"}),
        "permanent redirect": Reply(true, 308, {"location": "http://127.0.0.1/canary"}),
        "created": Reply(true, 201),
        "bad request": Reply(true, 400),
        "unauthorized": Reply(true, 401),
        "forbidden": Reply(true, 403),
        "server error": Reply(true, 500),
        "no HTTP": Reply(raw=b"canary\r\n\r\n"),
        "nothing": Reply(hang_up=True),
    }
    for name, reply in replies.items():
        yield AnswerRow(f"response: {name}", source, _fixed(reply), "outage", "outage")


ROWS = [*active(), *claims(), *mismatches(), *documents()]
