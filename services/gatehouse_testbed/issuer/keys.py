"""Signing keys of a realm, created at every start."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

MAX_KEYS = 20
ALGORITHMS = ("ES256", "RS256")


@dataclass(slots=True)
class SigningKey:
    """A key pair. An `active` key may sign; an `enabled` one is published and verifies."""

    component_id: str
    kid: str
    algorithm: str
    private: Any = field(repr=False)
    priority: int
    active: bool = True
    enabled: bool = True

    def public_jwk(self) -> dict[str, Any]:
        """Return the public key as a JWK (RFC 7517)."""
        algorithm = ECAlgorithm if self.algorithm == "ES256" else RSAAlgorithm
        jwk: dict[str, Any] = json.loads(algorithm.to_jwk(self.private.public_key()))
        jwk.pop("key_ops", None)
        return {**jwk, "kid": self.kid, "alg": self.algorithm, "use": "sig"}


class SigningKeys:
    """The keys of a realm, ordered by priority."""

    def __init__(self) -> None:
        self._keys: list[SigningKey] = []
        self._private_secret = secrets.token_bytes(64)

    @classmethod
    def create(cls) -> Self:
        """Return the keys of a new realm: one for each algorithm."""
        keys = cls()
        keys.add("ES256", 100)
        keys.add("RS256", 90)
        return keys

    def copy(self) -> SigningKeys:
        """Return the same keys, for a realm that changes them independently."""
        keys = SigningKeys()
        keys._keys = [replace(key) for key in self._keys]
        return keys

    def add(self, algorithm: str, priority: int, *, active: bool = True, enabled: bool = True) -> SigningKey:
        """Create a key.

        Args:
            algorithm: `ES256` or `RS256`.
            priority: The active key with the highest priority signs.
            active: Whether it may sign.
            enabled: Whether it is published and verifies.

        Raises:
            ValueError: Another algorithm, or too many keys.
        """
        if len(self._keys) >= MAX_KEYS:
            raise ValueError("too many keys")
        private: Any
        if algorithm == "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "RS256":
            private = rsa.generate_private_key(65537, 2048)
        else:
            raise ValueError("the algorithm is not ES256 or RS256")
        key = SigningKey(
            component_id=secrets.token_hex(16),
            kid=secrets.token_urlsafe(24),
            algorithm=algorithm,
            private=private,
            priority=priority,
            active=active,
            enabled=enabled,
        )
        self._keys.insert(0, key)
        self._keys.sort(key=lambda k: -k.priority)
        return key

    def all(self) -> tuple[SigningKey, ...]:
        """Return all keys."""
        return tuple(self._keys)

    def find(self, component_id: str) -> SigningKey | None:
        """Return the key of a component."""
        return next((k for k in self._keys if k.component_id == component_id), None)

    def remove(self, key: SigningKey) -> None:
        """Remove a key; tokens that it signed are no longer accepted."""
        self._keys.remove(key)

    def jwks(self) -> dict[str, Any]:
        """Return the JWK Set."""
        return {"keys": [k.public_jwk() for k in self._keys if k.enabled]}

    def sign(self, claims: dict[str, Any], algorithm: str, typ: str = "JWT") -> str:
        """Sign claims with the first active key of `algorithm`; create one if there is none."""
        active = (k for k in self._keys if k.algorithm == algorithm and k.active and k.enabled)
        key = next(active, None) or self.add(algorithm, 0)
        return jwt.encode(claims, key.private, algorithm, headers={"kid": key.kid, "typ": typ})

    def public_pem(self, kid: str) -> bytes:
        """Return the public key with this id (SubjectPublicKeyInfo, RFC 7468).

        Raises:
            StopIteration: There is none.
        """
        key = next(key for key in self._keys if key.kid == kid)
        encoding, content = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        found: bytes = key.private.public_key().public_bytes(encoding, content)
        return found

    def sign_for_self(self, claims: dict[str, Any]) -> str:
        """Sign claims that only this issuer reads, with HS512, so that no published key verifies them."""
        return jwt.encode(claims, self._private_secret, "HS512")

    def verify(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token signed by an enabled key, None otherwise; expiry is not checked."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = next((k for k in self._keys if k.kid == kid and k.enabled), None)
            if key is None:
                return None
            unchecked = {"verify_exp": False, "verify_aud": False, "verify_iat": False, "verify_nbf": False}
            claims: dict[str, Any] = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=[key.algorithm],
                options=unchecked,  # type: ignore[arg-type] # a TypedDict of PyJWT
            )
        except jwt.PyJWTError:
            return None
        return claims
