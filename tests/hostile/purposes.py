"""Hostile claims: rights, token types, issuers and audiences; the signatures are valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile.forge import Make, Row, forged
from tests.support.oauth_issuers import AUDIENCE


def _with_issuer(spell: Callable[[str], str]) -> Make:
    return lambda f: f.token(claims={"iss": spell(f.issuer.issuer)})


def rights() -> Iterator[Row]:
    """Rights that look like the required ones."""
    for scope in (
        "use:probe2",
        "USE:PROBE",
        "use:prob",
        "use\tprobe",
        "use:probe,read",
        "use:probe\n",
        "\u0075se:\u0440robe",
        "use",
        "*",
        "",
    ):
        yield Row(
            f"scope {scope!r}",
            "RFC 6749 section 3.3",
            forged(claims={"scope": scope}),
            "insufficient_scope",
        )
    wrong: dict[str, Any] = {
        "a string": {"roles": "operator"},
        "an object": {"roles": {"operator": True}},
        "nested": {"roles": [["operator"]]},
        "two in one": {"roles": ["user\noperator\nadmin"]},
        "other case": {"roles": ["Operator"]},
        "with a space": {"roles": ["operator "]},
        "numbers": {"roles": [1, None, True]},
        "a list": ["operator"],
    }
    for name, value in wrong.items():
        yield Row(
            f"roles: {name}",
            "RFC 9068 section 2.2.3",
            forged(claims={"realm_access": value}),
            "role_missing",
        )
    elsewhere: tuple[dict[str, Any], ...] = (
        {"roles": ["operator"]},
        {"groups": ["operator"]},
        {"resource_access": {"gatehouse-api": {"roles": ["operator"]}}},
        {"permissions": ["operator"]},
    )
    for claims in elsewhere:
        yield Row(
            f"role in another claim: {next(iter(claims))}",
            "RFC 9068 section 2.2.3",
            forged(claims={"realm_access": ..., **claims}),
            "role_missing",
        )
    for claims in ({"scp": ["use:probe"]}, {"scopes": "use:probe"}, {"permissions": ["use:probe"]}):
        yield Row(
            f"scope in another claim: {next(iter(claims))}",
            "RFC 9068 section 2.2.3",
            forged(claims={"scope": ..., **claims}),
            "insufficient_scope",
        )
    for acr in ("MFA", "mfa ", "mfa2", "0", ""):
        yield Row(f"acr {acr!r}", "RFC 9470 section 3", forged(claims={"acr": acr}), "acr_mismatch")


def token_types() -> Iterator[Row]:
    other = "token_type_mismatch"
    id_token = {"typ": "ID", "nonce": "n", "at_hash": "h"}
    logout = {
        "typ": "Logout",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        "exp": 4e9,
    }
    tokens: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "ID token": ("RFC 8725 section 3.12", {}, id_token),
        "ID token as at+jwt": ("RFC 9068 section 2.1", {"typ": "at+jwt"}, id_token),
        "refresh token": ("RFC 6749 section 1.5", {}, {"typ": "Refresh"}),
        "offline token": ("Keycloak", {}, {"typ": "Offline"}),
        "logout token": ("OpenID Connect Back-Channel Logout section 2.4", {"typ": "logout+jwt"}, logout),
        "logout token without typ in the header": (
            "OpenID Connect Back-Channel Logout section 2.4",
            {},
            logout,
        ),
        "DPoP proof": ("RFC 9449 section 4.2", {"typ": "dpop+jwt"}, {"htm": "POST", "htu": "https://a.test"}),
        "DPoP-bound token type": ("RFC 9449 section 5", {}, {"typ": "DPoP"}),
        "client assertion": ("RFC 7523 section 3", {"typ": ...}, {"typ": ...}),
        "action token": ("Keycloak", {}, {"typ": "verify-email"}),
        "other case": ("Keycloak", {}, {"typ": "bearer"}),
        "security event": ("RFC 8417 section 2.3", {"typ": "secevent+jwt"}, {}),
    }
    for name, (source, header, claims) in tokens.items():
        yield Row(name, source, forged(header, claims), other)
    bindings: tuple[dict[str, Any], ...] = ({"jkt": "canary"}, {"x5t#S256": "canary"}, {"jwk": {}})
    for cnf in bindings:
        yield Row(
            f"bound to {next(iter(cnf))}, without proof",
            "RFC 8705 section 3, RFC 9449 section 6",
            forged(claims={"cnf": cnf}),
            "proof_of_possession_missing",
        )


def issuers() -> Iterator[Row]:
    lookalikes: dict[str, Callable[[str], str]] = {
        "trailing slash": lambda i: i + "/",
        "no trailing part": lambda i: i[:-1],
        "upper case": lambda i: i.upper(),
        "other scheme": lambda i: i.replace("http:", "https:"),
        "no scheme": lambda i: i.removeprefix("http:"),
        "prefix": lambda i: i + ".evil.test",
        "suffix": lambda i: "https://evil.test/?" + i,
        "userinfo": lambda i: i.replace("http://", "http://admin@"),
        "host as userinfo": lambda i: i.replace("http://", "http://evil.test@"),
        "other spelling of the address": lambda i: i.replace("127.0.0.1", "127.1"),
        "name of the address": lambda i: i.replace("127.0.0.1", "localhost"),
        "query": lambda i: i + "?a=b",
        "fragment": lambda i: i + "#",
        "dot segments": lambda i: i + "/../test",
        "double slash": lambda i: i.replace("/realms", "//realms"),
        "percent encoding": lambda i: i.replace("test", "t%65st"),
        "homoglyph": lambda i: i.replace("e", "\u0435"),
        "full-width letters": lambda i: i.replace("test", "\uff54est"),
        "zero-width space": lambda i: i + "\u200b",
        "space": lambda i: i + " ",
        "line break": lambda i: i + "\n",
        "NUL": lambda i: i + "\0",
        "another issuer": lambda _: "https://canary.evil.test",
        "path": lambda i: i.replace("/realms/test", "/realms/master"),
    }
    for name, spell in lookalikes.items():
        yield Row(
            f"iss: {name}",
            "RFC 7519 section 4.1.1, RFC 8725 section 3.8",
            _with_issuer(spell),
            "issuer_unknown",
        )


def audiences() -> Iterator[Row]:
    wrong: dict[str, Any] = {
        "another": "canary-api",
        "empty": "",
        "empty list": [],
        "prefix": AUDIENCE[:-1],
        "suffix": AUDIENCE + "s",
        "other case": AUDIENCE.upper(),
        "space": AUDIENCE + " ",
        "words": f"other {AUDIENCE}",
        "commas": f"other,{AUDIENCE}",
        "list of others": ["other", "account"],
        "list in a list": [[AUDIENCE]],
        "object": {AUDIENCE: 1},
        "list with a number": [AUDIENCE, 1],
        "list with null": [None, AUDIENCE],
        "list with an object": [{"aud": AUDIENCE}, AUDIENCE],
        "wildcard": "*",
        "homoglyph": AUDIENCE.replace("a", "\u0430"),
    }
    for name, value in wrong.items():
        yield Row(
            f"aud: {name}",
            "RFC 7519 section 4.1.3",
            forged(claims={"aud": value}),
            "audience_mismatch",
        )
    yield Row(
        "audience in azp only",
        "RFC 8725 section 3.9",
        lambda f: f.token(claims={"aud": "other", "azp": AUDIENCE}),
        "audience_mismatch",
    )
    yield Row(
        "audience in client_id only",
        "RFC 8725 section 3.9",
        lambda f: f.token(claims={"aud": ..., "client_id": AUDIENCE}),
        "audience_mismatch",
    )
    for right in (
        [AUDIENCE],
        ["other", AUDIENCE],
        [AUDIENCE, AUDIENCE],
        "second-audience",
        ["second-audience"],
    ):
        yield Row(f"aud {right!r} is valid", "RFC 7519 section 4.1.3", forged(claims={"aud": right}))


ROWS = [*rights(), *token_types(), *issuers(), *audiences()]
