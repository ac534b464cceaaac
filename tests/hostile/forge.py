"""Tools to forge tokens, and the rows of the tables of hostile inputs."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.oauth_issuers import AUDIENCE, LoopbackIssuer, SigningKey, b64, rsa_key

CANARY = "canary"
# Keys that the issuer publishes although no token may be verified with them.
UNUSABLE = {
    "encryption": SigningKey("encryption", "RS256", rsa_key()).jwk(use="enc"),
    "cannot-verify": SigningKey.make("cannot-verify").jwk(use=None, key_ops=["sign"]),
    "weak": SigningKey("weak", "RS256", rsa_key(1024)).jwk(),
    "other-alg": SigningKey("other-alg", "PS256", rsa_key()).jwk(),
    "other-curve": SigningKey.make("other-curve", "ES384").jwk(),
    "mislabelled-curve": SigningKey.make("mislabelled-curve", "ES384").jwk(alg="ES256"),
    "symmetric": {"kty": "oct", "kid": "symmetric", "k": b64(b"secret" * 8), "alg": "HS256"},
    "symmetric-es256": {"kty": "oct", "kid": "symmetric-es256", "k": b64(b"secret" * 8), "alg": "ES256"},
    "private": SigningKey.make("private").jwk(d=b64(b"d" * 32)),
}
_numbers = itertools.count(1)


@dataclass
class Forge:
    """Makes tokens of an issuer that are valid but for the changes that a row makes.

    Attributes:
        issuer: An issuer with the keys `key-1` (ES256) and `rsa` (RS256).
    """

    issuer: LoopbackIssuer

    @property
    def key(self) -> SigningKey:
        """The key that signs tokens."""
        return self.issuer.keys[0]

    @property
    def rsa(self) -> SigningKey:
        """A second key of the issuer."""
        return self.issuer.keys[1]

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return the header of a valid token; `...` removes a member."""
        header = {"alg": "ES256", "typ": "JWT", "kid": self.key.kid} | changes
        return {name: value for name, value in header.items() if value is not ...}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a valid token, whose values contain canaries; `...` removes a claim."""
        now = time.time()
        claims = {
            "iss": self.issuer.issuer,
            "aud": AUDIENCE,
            "sub": "canary-subject",
            "azp": "canary-client",
            "typ": "Bearer",
            "exp": now + 300,
            "iat": now,
            "auth_time": now - 60,
            "acr": "mfa",
            "jti": f"canary-{next(_numbers)}",
            "scope": "use:probe canary-scope",
            "realm_access": {"roles": ["operator", "canary-role"]},
            "email": "canary@example.com",
        } | changes
        return {name: value for name, value in claims.items() if value is not ...}

    def token(
        self,
        header: Mapping[str, Any] | bytes | None = None,
        claims: Mapping[str, Any] | bytes | None = None,
        key: SigningKey | None = None,
    ) -> str:
        """Return a signed token; mappings change the header and the claims, bytes replace them."""
        raw_header = header if isinstance(header, bytes) else self.header(**(header or {}))
        raw_claims = claims if isinstance(claims, bytes) else self.claims(**(claims or {}))
        return (key or self.key).sign(raw_claims, raw_header)

    def parts(self) -> list[str]:
        """Return the three parts of a valid token."""
        return self.token().split(".")

    def unsigned(self, header: Mapping[str, Any], signature: str = "") -> str:
        """Return a token with a signature that nothing has made."""
        return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(self.claims()).encode())}.{signature}"


Make = Callable[[Forge], str]


def forged(
    header: Mapping[str, Any] | bytes | None = None, claims: Mapping[str, Any] | bytes | None = None
) -> Make:
    """Return a maker of signed tokens; see Forge.token."""
    return lambda forge: forge.token(header, claims)


def respelled(spell: Callable[[str, str, str], str]) -> Make:
    """Return a maker of tokens that puts the parts of a valid token together in another way."""
    return lambda forge: spell(*forge.parts())


def with_payload(spoil: Callable[[bytes], bytes]) -> Make:
    """Return a maker of signed tokens with a changed payload."""
    return lambda forge: forge.token(claims=spoil(json.dumps(forge.claims()).encode()))


@dataclass(frozen=True)
class Row:
    """One hostile token, or one unusual token that is valid.

    Attributes:
        name: What it is.
        source: RFC section, CVE or well-known attack that it comes from.
        make: Makes it.
        reason: Why it is refused; "" if it is valid.
        illegal: Whether HTTP/2 does not allow it in a header, so that gRPC may refuse it first.
    """

    name: str
    source: str
    make: Make = field(repr=False)
    reason: str = ""
    illegal: bool = False

    def __str__(self) -> str:
        return self.name
