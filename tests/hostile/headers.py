"""Hostile headers: `kid`, keys in the header, critical and other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.forge import Forge, Make, Row, forged
from tests.support.oauth_issuers import SigningKey

_ATTACKER = SigningKey.make("key-1")


def _injected(name: str, key: SigningKey | None = None) -> Make:
    """Return a maker of a token whose header names a key, or where to find it."""

    def make(forge: Forge) -> str:
        url = forge.issuer.url("evil")
        values: dict[str, Any] = {"jwk": _ATTACKER.jwk(), "jku": url, "x5u": url, "x5c": ["AAAA"]}
        return forge.token({name: values.get(name, "AAAA")}, key=key)

    return make


def kids() -> Iterator[Row]:
    unknown = "key_unknown"
    injections = {
        "path traversal": ("../../../../dev/null", "kid path traversal"),
        "absolute path": ("/proc/sys/kernel/randomize_va_space", "kid path traversal"),
        "SQL": ("canary' UNION SELECT 'secret' --", "kid SQL injection"),
        "shell": ("key-1;sleep 10|id", "kid command injection"),
        "template": ("{{7*7}}${jndi:ldap://127.0.0.1/a}", "CVE-2021-44228"),
        "URL": ("https://127.0.0.1/jwks", "RFC 8725 section 3.10"),
        "NUL": ("key-1\0", "poison null byte"),
        "line break": ("key-1\r\nx: canary", "log and header injection"),
        "terminal escape": ("\x1b[31mcanary", "log injection"),
        "other case": ("KEY-1", "RFC 7515 section 4.1.4"),
        "space": ("key-1 ", "RFC 7515 section 4.1.4"),
        "homoglyph": ("k\u0435y-1", "Unicode homoglyph"),
        "full width": ("\uff4bey-1", "Unicode normalization"),
        "prefix": ("key", "RFC 7515 section 4.1.4"),
        "wildcard": ("*", "kid SQL injection"),
        "empty": ("", "RFC 7515 section 4.1.4"),
        "4,000 characters": ("k" * 4000, "resource exhaustion"),
        "the text None": ("None", "kid of another type"),
        "JSON": ('["key-1"]', "kid of another type"),
    }
    for name, (kid, source) in injections.items():
        yield Row(f"kid: {name}", source, forged({"kid": kid}), unknown)
    others: tuple[Any, ...] = (None, 1, 1.5, True, [], ["key-1"], {}, {"kid": "key-1"})
    for other in others:
        yield Row(
            f"kid of another type: {other!r}",
            "RFC 7515 section 4.1.4",
            forged({"kid": other}),
            unknown,
        )
    yield Row(
        "kid twice",
        "RFC 7515 section 4",
        lambda f: f.token(b'{"alg":"ES256","kid":"rsa","kid":"key-1"}'),
        "token_malformed",
    )
    yield Row("no kid, one key for the algorithm", "RFC 7515 section 4.1.4", lambda f: f.token({"kid": ...}))
    yield Row(
        "no kid, several keys for the algorithm",
        "RFC 7515 section 4.1.4",
        lambda f: f.token({"kid": ..., "alg": "RS256"}, key=f.rsa),
        "kid_missing",
    )
    yield Row(
        "no kid, key of an attacker",
        "RFC 7515 section 4.1.4",
        lambda f: f.token({"kid": ...}, key=SigningKey.make("")),
        "signature_mismatch",
    )


def parameters() -> Iterator[Row]:
    for name in ("jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256"):
        source = {"jwk": "CVE-2018-0114", "jku": "RFC 8725 section 3.10"}.get(name, "RFC 7515 section 4.1")
        yield Row(
            f"{name} with a key of an attacker",
            source,
            _injected(name, _ATTACKER),
            "signature_mismatch",
        )
        yield Row(f"{name} beside a valid signature", source, _injected(name))
    yield Row(
        "jwk and no kid",
        "CVE-2018-0114",
        lambda f: f.token({"kid": ..., "jwk": _ATTACKER.jwk()}, key=_ATTACKER),
        "signature_mismatch",
    )
    critical: list[Any] = [
        ["exp"],
        ["b64"],
        ["alg"],
        ["kid", "canary"],
        [],
        [""],
        [1],
        "exp",
        None,
        True,
        {},
        ["http://example.com/x"],
    ]
    for value in critical:
        yield Row(
            f"crit {value!r}",
            "RFC 7515 section 4.1.11, CVE-2026-32597",
            forged({"crit": value}),
            "header_not_understood",
        )
    for value in (True, False, None, "false", 0):
        yield Row(f"b64 {value!r}", "RFC 7797", forged({"b64": value}), "header_not_understood")
        yield Row(
            f"b64 {value!r}, critical",
            "RFC 7797",
            forged({"b64": value, "crit": ["b64"]}),
            "header_not_understood",
        )
    for value in (
        "dpop+jwt",
        "logout+jwt",
        "id+jwt",
        "secevent+jwt",
        "JWE",
        "jwt+at",
        "at+jwt ",
        "\u212aWT",
        "text/jwt",
        "application/application/jwt",
    ):
        yield Row(
            f"typ {value!r}",
            "RFC 8725 section 3.11",
            forged({"typ": value}),
            "token_type_mismatch",
        )
    for value in (None, 1, True, [], ["JWT"], {}):
        yield Row(
            f"typ of another type: {value!r}",
            "RFC 7515 section 4.1.9",
            forged({"typ": value}),
            "token_type_mismatch",
        )
    for value in (..., "JWT", "jwt", "application/jwt", "at+jwt", "AT+JWT", "application/at+jwt"):
        yield Row(f"typ {value!r} is valid", "RFC 9068 section 2.1", forged({"typ": value}))
    yield Row(
        "unknown parameters are ignored",
        "RFC 7515 section 4.2",
        lambda f: f.token({"canary": {"a": [1]}, "zip": "DEF"}),
    )


ROWS = [*kids(), *parameters()]
