"""Hostile algorithms, signatures and published keys."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.hostile.forge import UNUSABLE, Forge, Make, Row, forged
from tests.support.oauth_issuers import SigningKey, b64, rsa_key

RFC8725 = "RFC 8725 section 3.1"
NONE = "RFC 7519 section 6, RFC 8725 section 2.1"
CONFUSION = "RFC 8725 section 2.1, CVE-2016-10555"


def _hmac(secret: Callable[[Forge], bytes], alg: str, digest: str = "sha256", kid: str = "rsa") -> Make:
    """Return a maker of a token that is signed with HMAC."""

    def make(forge: Forge) -> str:
        signed = forge.unsigned(forge.header(alg=alg, kid=kid))[:-1]
        return f"{signed}.{b64(hmac.digest(secret(forge), signed.encode(), digest))}"

    return make


def _unsigned(alg: str) -> Make:
    return lambda f: f.unsigned(f.header(alg=alg))


def _with_signature(raw: bytes) -> Make:
    return lambda f: ".".join([*f.parts()[:2], b64(raw)])


def _signed_for(kid: str, alg: str) -> Make:
    return lambda f: f.token({"kid": kid, "alg": alg}, key=f.rsa if alg == "RS256" else f.key)


def _pem(forge: Forge, format: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:  # noqa: A002 - as in cryptography
    raw: bytes = forge.rsa.private.public_key().public_bytes(Encoding.PEM, format)
    return raw


def _der_signature(forge: Forge) -> str:
    signed = ".".join(forge.parts()[:2])
    return f"{signed}.{b64(forge.key.private.sign(signed.encode(), ECDSA(SHA256())))}"


def algorithms() -> Iterator[Row]:
    refused = "algorithm_not_allowed"
    for alg in ("none", "None", "NONE", "nOnE", "none ", "non\u0435", "", "null", "NONE\0"):
        yield Row(
            f"alg {alg!r} without signature",
            NONE,
            _unsigned(alg),
            "token_malformed",
        )
        yield Row(f"alg {alg!r} with a signature", NONE, forged({"alg": alg}), refused)
    others: tuple[Any, ...] = (..., None, 0, 1, True, ["ES256"], ["none"], {}, {"alg": "ES256"})
    for other in others:
        yield Row(
            f"alg of another type: {other!r}",
            "RFC 7515 section 4.1.1",
            forged({"alg": other}),
            refused,
        )
    for alg in (
        "es256",
        "ES256 ",
        " ES256",
        "ES256K",
        "ES256\0",
        "E\u0405256",
        "ES2560",
        "EdDSA",
        "ES512",
        "PS256",
        "RS1",
    ):
        yield Row(f"alg {alg!r} is not configured", RFC8725, forged({"alg": alg}), refused)
    for alg in ("dir", "A256GCMKW", "RSA-OAEP", "PBES2-HS256+A128KW", "ECDH-ES"):
        yield Row(
            f"alg {alg} is for encryption",
            "RFC 7518 section 4.1",
            forged({"alg": alg}),
            refused,
        )
    for name, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        yield Row(
            f"public key in PEM as {name} secret",
            CONFUSION,
            _hmac(_pem, name, digest),
            refused,
        )
    secrets = {
        "PKCS #1 PEM": lambda f: _pem(f, PublicFormat.PKCS1),
        "PEM without the last line break": lambda f: _pem(f).rstrip(),
        "DER": lambda f: f.rsa.private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ),
        "JWK": lambda f: json.dumps(f.rsa.jwk()).encode(),
        "empty": lambda _: b"",
    }
    for name, secret in secrets.items():
        yield Row(
            f"HMAC secret: {name}",
            "CVE-2022-29217, CVE-2024-33663",
            _hmac(secret, "HS256"),
            refused,
        )
    yield Row(
        "RS256 in the header, HMAC with the public key",
        "CVE-2016-10555",
        _hmac(_pem, "RS256"),
        "signature_mismatch",
    )
    yield Row(
        "HMAC with the published symmetric key",
        "RFC 8725 section 3.5",
        _hmac(lambda _: b"secret" * 8, "HS256", kid="symmetric"),
        refused,
    )
    yield Row("ES256", "RFC 7518 section 3.4", lambda f: f.token())
    yield Row("RS256", "RFC 7518 section 3.3", lambda f: f.token({"alg": "RS256", "kid": "rsa"}, key=f.rsa))


def signatures() -> Iterator[Row]:
    bad = "signature_mismatch"
    degenerate = {
        "zeros": b"\0" * 64,
        "r=1, s=0": b"\0" * 31 + b"\1" + b"\0" * 32,
        "r=0, s=1": b"\0" * 63 + b"\1",
        "maximum": b"\xff" * 64,
        "the order of the curve": bytes.fromhex(
            "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551"
        )
        * 2,
        "one byte": b"\0",
        "63 bytes": b"\1" * 63,
        "65 bytes": b"\1" * 65,
        "5,000 bytes": b"\1" * 5000,
    }
    for name, raw in degenerate.items():
        yield Row(
            f"ECDSA signature: {name}",
            "CVE-2022-21449",
            _with_signature(raw),
            bad,
        )
    yield Row(
        "ECDSA signature in DER",
        "RFC 7518 section 3.4",
        _der_signature,
        bad,
    )
    yield Row(
        "signature of another token",
        "RFC 7515 section 5.2",
        lambda f: ".".join([*f.parts()[:2], f.parts()[2]]),
        bad,
    )
    yield Row(
        "claims of another token",
        "RFC 7515 section 5.2",
        lambda f: ".".join([f.parts()[0], f.token(claims={"sub": "admin"}).split(".")[1], f.parts()[2]]),
        bad,
    )
    yield Row(
        "key pair of an attacker",
        "RFC 8725 section 3.3",
        lambda f: f.token(key=SigningKey.make("key-1")),
        bad,
    )
    yield Row(
        "RSA signature shorter than the key",
        "RFC 8017 section 8.2.2",
        lambda f: f.token({"alg": "RS256", "kid": "rsa"}, key=SigningKey("rsa", "RS256", rsa_key(1024))),
        bad,
    )
    yield Row(
        "RSA signature: zero",
        "RFC 8017 section 5.2.2",
        lambda f: f.unsigned(f.header(alg="RS256", kid="rsa"), b64(b"\0" * 256)),
        bad,
    )
    yield Row(
        "RSA signature: one",
        "CVE-2006-4339",
        lambda f: f.unsigned(f.header(alg="RS256", kid="rsa"), b64(b"\0" * 255 + b"\1")),
        bad,
    )
    yield Row(
        "PS256 signature as RS256",
        "RFC 8725 section 3.1",
        lambda f: f.token({"alg": "RS256", "kid": "rsa"}, key=SigningKey("rsa", "PS256", rsa_key())),
        bad,
    )
    yield Row(
        "SHA-256 of the payload as signature",
        "RFC 7515 section 5.2",
        lambda f: f.unsigned(f.header(), b64(hashlib.sha256(b"").digest() * 2)),
        bad,
    )


def keys() -> Iterator[Row]:
    for kid in UNUSABLE:
        alg = "RS256" if kid in {"encryption", "weak", "other-alg"} else "ES256"
        yield Row(
            f"published key that is not for this: {kid}",
            "RFC 7517 section 4, RFC 8725 section 3.5",
            _signed_for(kid, alg),
            "key_unknown",
        )
    yield Row("RSA key with an EC algorithm", RFC8725, lambda f: f.token({"kid": "rsa"}), "key_unknown")
    yield Row(
        "EC key with an RSA algorithm", RFC8725, lambda f: f.token({"alg": "RS256"}, key=f.rsa), "key_unknown"
    )


ROWS = [*algorithms(), *signatures(), *keys()]
