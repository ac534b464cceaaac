"""`private_key_jwt`: a client signs an assertion instead of sending a secret (RFC 7523 section 2.2)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt

from gatehouse.client.client_auth import Credentials, Secret, read_secret
from gatehouse.settings import ConfigurationError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFETIME_SECONDS = 60


@dataclass(frozen=True, slots=True)
class PrivateKeyJwt:
    """A ClientAuth that signs an assertion for each request, with an id that is never repeated.

    Args:
        key: Private key in PEM, or what reads it for each request.
        key_id: `kid` of the key at the issuer; "" leaves it out.
        algorithm: Signature algorithm that fits the key, such as ES256 or PS256.
        audience: Audience of the assertion; "" is the issuer, or the token endpoint if no issuer is set.
        clock: Seconds since the epoch.
    """

    key: Secret = field(repr=False)
    key_id: str = ""
    algorithm: str = "ES256"
    audience: str = ""
    clock: Callable[[], float] = time.time

    def credentials(self, client_id: str, audience: str) -> Credentials:
        """See ClientAuth.

        Raises:
            ConfigurationError: The key is not a private key for the algorithm.
        """
        now = int(self.clock())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": self.audience or audience,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + LIFETIME_SECONDS,
        }
        headers = {"kid": self.key_id} if self.key_id else None
        try:
            assertion = jwt.encode(claims, read_secret(self.key), self.algorithm, headers)
        except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
            raise ConfigurationError(
                f"key of client {client_id}: not an unencrypted PEM private key for {self.algorithm}"
            ) from None
        return Credentials(
            fields={
                "client_id": client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion,
            }
        )
