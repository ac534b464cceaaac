"""Reading of JWK Sets (RFC 7517): which keys may verify tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gatehouse.oauth.errors import IssuerUnavailable

MAX_KEYS = 64
RSA_BITS = range(2048, 8192 + 1)
MAX_RSA_EXPONENT_BITS = 32

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS: Mapping[tuple[str, str], Sequence[str]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Snapshot = Mapping[tuple[str | None, str], Any]


def read_keys(document: Mapping[str, Any], algorithms: Sequence[str]) -> Snapshot:
    """Return the keys of a JWK Set, by (`kid`, `alg`).

    Keys that cannot verify signatures with one of `algorithms` are skipped: another `use` or `key_ops`
    (RFC 7517 sections 4.2, 4.3), another `alg`, symmetric, private, weak, or malformed. If different keys
    have the same `kid`, none of them is used.

    `kid` is optional (RFC 7515 section 4.1.4). The key for a token without one is under None, if there is
    only one key for its algorithm.

    Raises:
        IssuerUnavailable: The document is not a JWK Set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise IssuerUnavailable("keys_malformed")
    found: dict[tuple[str | None, str], list[Any]] = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid", ""), str):
            continue
        for algorithm in _algorithms_of(entry):
            key = _read_key(entry, algorithm) if algorithm in algorithms else None
            if key is None:
                continue
            for kid in {None, entry.get("kid")}:
                same = found.setdefault((kid, algorithm), [])
                if key not in same:
                    same.append(key)
    return {name: key for name, (key, *others) in found.items() if not others}


def _read_key(entry: Mapping[str, Any], algorithm: str) -> Any | None:
    try:
        key = jwt.PyJWK(dict(entry), algorithm).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, OverflowError):
        return None
    return None if isinstance(key, RSAPublicKey) and not _is_sound(key) else key


def _is_sound(key: RSAPublicKey) -> bool:
    """Return whether an RSA key is neither weak nor so large that verification is slow."""
    return key.key_size in RSA_BITS and key.public_numbers().e.bit_length() <= MAX_RSA_EXPONENT_BITS


def _algorithms_of(entry: Mapping[str, Any]) -> Sequence[str]:
    if entry.get("use", "sig") != "sig" or not _PRIVATE.isdisjoint(entry):
        return ()
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return ()
    kind = str(entry.get("kty"))
    able = _RSA if kind == "RSA" else _ALGORITHMS.get((kind, str(entry.get("crv"))), ())
    if "alg" in entry:
        return (entry["alg"],) if entry["alg"] in able else ()
    return able


def describe_keys(document: Mapping[str, Any], algorithms: Sequence[str]) -> str:
    """Return which algorithms the keys of a JWK Set without a usable key are for."""
    entries = [entry for entry in document["keys"][:MAX_KEYS] if isinstance(entry, dict)]
    found = sorted({name for entry in entries for name in _algorithms_of(entry)})
    names = ", ".join(found) or "no known algorithm"
    return f"{len(entries)} keys, for {names}; accepted {', '.join(algorithms)}"
