"""Key sets and metadata of an issuer that lies or errs (RFC 7517, RFC 8414)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer, SigningKey, b64, rsa_key

Answer = Callable[[LoopbackIssuer], Reply]
Spoil = Callable[[Reply], Reply]


@dataclass(frozen=True)
class DocumentRow:
    """One document.

    Attributes:
        name: What it is.
        source: RFC section, CVE or well-known attack that it comes from.
        reply: Makes the response.
        reason: Why a token of the issuer is not accepted; "" if it is.
    """

    name: str
    source: str
    reply: Answer = field(repr=False)
    reason: str = "keys_unavailable"

    def __str__(self) -> str:
        return self.name


def _keys(*entries: Any) -> Reply:
    return Reply({"keys": list(entries)})


_JWK = {"content-type": "application/jwk-set+json"}
# Responses that are wrong for any document.
_BROKEN: dict[str, Spoil] = {
    "HTML": lambda _: Reply(b"<html><body>Login</body></html>", headers={"content-type": "text/html"}),
    "JSON as HTML": lambda r: Reply(r.body, headers={"content-type": "text/html"}),
    "empty": lambda _: Reply(b""),
    "array": lambda r: Reply([r.body]),
    "string": lambda r: Reply(json.dumps(r.body)),
    "null": lambda _: Reply(None),
    "cut off": lambda r: Reply(json.dumps(r.body).encode()[:-1]),
    "byte order mark": lambda r: Reply(b"\xef\xbb\xbf" + json.dumps(r.body).encode()),
    "invalid UTF-8": lambda r: Reply(json.dumps(r.body).encode()[:-1] + b',"a":"\xff"}'),
    "70 KB": lambda r: Reply(r.body | {"pad": "a" * 70_000}),
    "deep nesting": lambda r: Reply(
        json.dumps(r.body).encode()[:-1] + b',"a":' + b"[" * 1001 + b"]" * 1001 + b"}"
    ),
    "compressed": lambda r: Reply(r.body, headers={"content-encoding": "gzip"}),
    "redirect": lambda r: Reply(r.body, 302, {"location": "/realms/test/moved"}),
    "permanent redirect": lambda r: Reply(r.body, 301, {"location": "http://169.254.169.254/"}),
    "server error": lambda r: Reply(r.body, 500),
    "partial content": lambda r: Reply(r.body, 206),
    "no HTTP": lambda _: Reply(raw=b"canary\r\n\r\n"),
}


def _fixed(reply: Reply) -> Answer:
    return lambda _: reply


def _spoilt_keys(spoil: Spoil) -> Answer:
    return lambda issuer: spoil(Reply(issuer.jwks()))


def _spoilt_metadata(spoil: Spoil) -> Answer:
    return lambda issuer: spoil(Reply(issuer.metadata()))


def _changed_key(changes: dict[str, Any]) -> Answer:
    return lambda issuer: _keys(issuer.keys[0].jwk(**changes))


def _changed_metadata(**changes: Any) -> Answer:
    return lambda issuer: Reply(issuer.metadata() | changes)


def _other_issuer(spell: Callable[[str], Any]) -> Answer:
    return lambda issuer: Reply(issuer.metadata() | {"issuer": spell(issuer.issuer)})


def key_sets() -> Iterator[DocumentRow]:
    for name, spoil in _BROKEN.items():
        yield DocumentRow(f"key set: {name}", "RFC 7517 section 5", _spoilt_keys(spoil))
    malformed: dict[str, Any] = {
        "no keys": {},
        "keys is null": {"keys": None},
        "keys is an object": {"keys": {"key-1": {}}},
        "keys is a string": {"keys": "canary"},
        "keys are strings": {"keys": ["canary", 1, None, []]},
        "no key": {"keys": []},
        "keys twice": b'{"keys":[],"keys":[]}',
    }
    for name, body in malformed.items():
        yield DocumentRow(f"key set: {name}", "RFC 7517 section 5.1", _fixed(Reply(body)))
    wrong: dict[str, tuple[str, dict[str, Any]]] = {
        "for encryption": ("RFC 7517 section 4.2", {"use": "enc"}),
        "use of another type": ("RFC 7517 section 4.2", {"use": ["sig"]}),
        "for signing only": ("RFC 7517 section 4.3", {"key_ops": ["sign"]}),
        "for nothing": ("RFC 7517 section 4.3", {"key_ops": []}),
        "key_ops is a string": ("RFC 7517 section 4.3", {"key_ops": "verify"}),
        "for another algorithm": ("RFC 7517 section 4.4", {"alg": "ES384"}),
        "for HMAC": ("RFC 7517 section 4.4", {"alg": "HS256"}),
        "for none": ("RFC 7517 section 4.4", {"alg": "none"}),
        "alg of another type": ("RFC 7517 section 4.4", {"alg": ["ES256"]}),
        "kid of another type": ("RFC 7517 section 4.5", {"kid": 1}),
        "private": ("RFC 7517 section 9.2", {"d": b64(b"d" * 32)}),
        "with a symmetric key": ("RFC 7518 section 6.4", {"k": b64(b"k" * 32)}),
        "symmetric": ("RFC 7518 section 6.4", {"kty": "oct", "k": b64(b"k" * 32)}),
        "kty RSA with a point": ("RFC 7518 section 6.2", {"kty": "RSA"}),
        "kty of another type": ("RFC 7517 section 4.1", {"kty": ["EC"]}),
        "on another curve": ("RFC 7518 section 6.2.1.1", {"crv": "P-384"}),
        "on the curve of Bitcoin": ("RFC 8812 section 3", {"crv": "secp256k1"}),
        "not on the curve": ("CVE-2017-16007", {"y": b64(b"\1" * 32)}),
        "point at infinity": ("RFC 7518 section 6.2", {"x": b64(b"\0" * 32), "y": b64(b"\0" * 32)}),
        "short coordinate": ("RFC 7518 section 6.2.1.2", {"x": "AAAA"}),
        "coordinate is a number": ("RFC 7518 section 6.2.1.2", {"x": 1}),
        "no coordinate": ("RFC 7518 section 6.2.1.3", {"y": None}),
    }
    for name, (source, change) in wrong.items():
        yield DocumentRow(f"key: {name}", source, _changed_key(change))
    rsa = SigningKey("key-1", "RS256", rsa_key())
    weak: dict[str, tuple[str, dict[str, Any]]] = {
        "1,024 bits": ("RFC 7518 section 3.3", SigningKey("key-1", "RS256", rsa_key(1024)).jwk()),
        "16,000 bits": ("CVE-2023-6237", rsa.jwk(n="_" * 2700)),
        "exponent 1": ("RFC 8017 section 3.1", rsa.jwk(e="AQ")),
        "exponent 2": ("RFC 8017 section 3.1", rsa.jwk(e="Ag")),
        "exponent of 1,200 bits": ("slow verification", rsa.jwk(e="_" * 200)),
        "private": ("RFC 7517 section 9.2", rsa.jwk(d="AAAA")),
        "with a prime": ("RFC 7517 section 9.2", rsa.jwk(p="AAAA")),
    }
    for name, (source, jwk) in weak.items():
        yield DocumentRow(f"RSA key: {name}", source, _fixed(_keys(jwk)))
    attacker = SigningKey.make("key-1")
    decoy = SigningKey.make("decoy").jwk()
    yield DocumentRow(
        "kid twice",
        "RFC 7517 section 4.5",
        lambda i: _keys(i.keys[0].jwk(), attacker.jwk(), decoy),
        "key_unknown",
    )
    yield DocumentRow(
        "kid twice, other order",
        "RFC 7517 section 4.5",
        lambda i: _keys(attacker.jwk(), i.keys[0].jwk(), decoy),
        "key_unknown",
    )
    yield DocumentRow(
        "10,000 keys",
        "resource exhaustion",
        lambda i: _keys(*[{**decoy, "kid": str(n)} for n in range(10_000)], i.keys[0].jwk()),
    )
    yield DocumentRow(
        "200 keys before the right one",
        "resource exhaustion",
        lambda i: _keys(*[{**decoy, "kid": str(n)} for n in range(200)], i.keys[0].jwk()),
        "key_unknown",
    )
    good: dict[str, Answer] = {
        "200 keys after the right one": lambda i: _keys(
            i.keys[0].jwk(), *[{**decoy, "kid": str(n)} for n in range(200)]
        ),
        "bad keys beside a good one": lambda i: _keys(None, {}, {**decoy, "kty": "oct"}, i.keys[0].jwk()),
        "one key listed twice": lambda i: _keys(i.keys[0].jwk(), i.keys[0].jwk()),
        "media type of key sets": lambda i: Reply(i.jwks(), headers=_JWK),
        "unknown members": lambda i: Reply(i.jwks() | {"canary": 1}),
        "key without alg and use": lambda i: _keys(i.keys[0].jwk(alg=None, use=None)),
        "key with certificates that are not read": lambda i: _keys(
            i.keys[0].jwk(x5c=["AAAA"], x5u="http://a.test")
        ),
    }
    for name, reply in good.items():
        yield DocumentRow(f"key set: {name}", "RFC 7517", reply, "")


def metadata() -> Iterator[DocumentRow]:
    for name, spoil in _BROKEN.items():
        yield DocumentRow(f"metadata: {name}", "RFC 8414 section 3.2", _spoilt_metadata(spoil))
    issuers: dict[str, Callable[[str], Any]] = {
        "another": lambda _: "https://evil.test",
        "trailing slash": lambda i: i + "/",
        "upper case": lambda i: i.upper(),
        "other scheme": lambda i: i.replace("http:", "https:"),
        "prefix": lambda i: i[:-1],
        "query": lambda i: i + "?a=b",
        "other name of the host": lambda i: i.replace("127.0.0.1", "localhost"),
        "list": lambda i: [i],
        "null": lambda _: None,
        "number": lambda _: 1,
        "empty": lambda _: "",
        "pattern": lambda i: i.replace("test", "{tenantid}"),
    }
    for name, make in issuers.items():
        yield DocumentRow(
            f"issuer: {name}",
            "RFC 8414 section 3.3 (mix-up)",
            _other_issuer(make),
        )
    uris: dict[str, Any] = {
        "plain HTTP": "http://keys.example.com/jwks",
        "cloud metadata": "http://169.254.169.254/latest/meta-data/",
        "file": "file:///etc/passwd",
        "data": "data:application/json,{}",
        "ftp": "ftp://127.0.0.1/jwks",
        "gopher": "gopher://127.0.0.1:6379/_canary",
        "relative": "/jwks",
        "without scheme": "//127.0.0.1/jwks",
        "with user information": "https://admin:canary@127.0.0.1/jwks",
        "with fragment": "https://127.0.0.1/jwks#a",
        "port 0": "https://127.0.0.1:0/jwks",
        "port 99999": "https://127.0.0.1:99999/jwks",
        "line break": "https://127.0.0.1/jwks\r\nx: canary",
        "space": "https://127.0.0.1/jw ks",
        "3,000 characters": "https://127.0.0.1/" + "a" * 3000,
        "empty": "",
        "list": ["https://127.0.0.1/jwks"],
        "number": 1,
        "object": {},
    }
    for name, uri in uris.items():
        yield DocumentRow(
            f"jwks_uri: {name}",
            "RFC 8414 section 2, SSRF",
            _changed_metadata(jwks_uri=uri),
        )
    yield DocumentRow(
        "no jwks_uri",
        "RFC 8414 section 2",
        lambda i: Reply({k: v for k, v in i.metadata().items() if k != "jwks_uri"}),
    )
    yield DocumentRow(
        "metadata: unknown members", "RFC 8414 section 2", lambda i: Reply(i.metadata() | {"canary": [1]}), ""
    )
    yield DocumentRow(
        "metadata: algorithms of the issuer do not count",
        "RFC 8725 section 3.1",
        lambda i: Reply(i.metadata() | {"id_token_signing_alg_values_supported": ["none"]}),
        "",
    )


KEY_SETS = list(key_sets())
METADATA_ROWS = list(metadata())
