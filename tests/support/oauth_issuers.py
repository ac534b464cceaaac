"""A small OAuth2 issuer on loopback that counts its requests, fails, hangs and rotates its keys."""

from __future__ import annotations

import asyncio
import base64
import functools
import heapq
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.eventually import eventually
from tests.support.loopback_http import LoopbackServer, Reply, Request

AUDIENCE = "gatehouse-api"
CLIENT_ID = "gatehouse-api"
CLIENT_SECRET = "canary:secret of the api%"
METADATA = ".well-known/openid-configuration"
EPOCH = 1_800_000_000.0


def b64(raw: bytes) -> str:
    """Encode base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class ManualTime:
    """A clock that moves only when a test advances it."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        """Return the seconds since the epoch."""
        return EPOCH + self.elapsed

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment."""
        return 5_000.0 + self.elapsed

    @property
    def pauses(self) -> list[float]:
        """Remaining seconds of each sleep in progress, shortest first."""
        return sorted(at - self.elapsed for at, _, future in self._sleepers if not future.done())

    async def until_sleeping(self, *seconds: float) -> None:
        """Wait until there is a sleep in progress, or until `pauses` is `seconds` if given."""
        await eventually(lambda: self.pauses == list(seconds) if seconds else bool(self.pauses))

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has advanced by `seconds`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move the clock, and end the sleeps that are due."""
        self.elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self.elapsed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key, generated once for each size."""
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class SigningKey:
    """A key pair with its name and algorithm."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)

    @classmethod
    def make(cls, kid: str, algorithm: str = "ES256") -> SigningKey:
        """Return a key for `algorithm`: a new one, but always the same RSA key."""
        if algorithm == "EdDSA":
            return cls(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
        if algorithm.startswith("ES"):
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            return cls(kid, algorithm, ec.generate_private_key(curves[algorithm]))
        return cls(kid, algorithm, rsa_key())

    def pem(self) -> str:
        """Return the private key in PEM."""
        return str(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public key as a JWK with `changes`; None removes a member."""
        public: Any = jwt.get_algorithm_by_name(self.algorithm).to_jwk(
            self.private.public_key(), as_dict=True
        )
        public.pop("key_ops", None)
        public |= {"kid": self.kid, "alg": self.algorithm, "use": "sig"} | changes
        return {name: value for name, value in public.items() if value is not None}

    def sign(
        self, payload: Mapping[str, Any] | bytes, header: Mapping[str, Any] | bytes | None = None
    ) -> str:
        """Return a signed JWS. Both parts may be bytes, so that a test can sign something malformed."""
        if header is None:
            header = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid}
        parts = [b64(p if isinstance(p, bytes) else json.dumps(p).encode()) for p in (header, payload)]
        signed = ".".join(parts)
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signed.encode(), self.private)
        return f"{signed}.{b64(signature)}"


class LoopbackIssuer(LoopbackServer):
    """An issuer with discovery, keys, introspection, token and revocation endpoints.

    Args:
        clock: Seconds since the epoch, for the claims of its tokens.
    """

    base_path = "/realms/test"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self.keys: list[SigningKey] = [SigningKey.make("key-1")]
        self.introspections: dict[str, dict[str, Any]] = {}
        self.secret = CLIENT_SECRET
        self._number = itertools.count(1)
        self.answer(METADATA, lambda _: Reply(self.metadata()))
        self.answer("jwks", lambda _: Reply(self.jwks()))
        self.answer("introspect", self._introspect)
        self.answer("token", self._token)
        self.answer("revoke", Reply())

    @property
    def issuer(self) -> str:
        """Its issuer URL."""
        return self.base_url

    def metadata(self) -> dict[str, Any]:
        """Return its metadata (RFC 8414)."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.url("jwks"),
            "token_endpoint": self.url("token"),
            "introspection_endpoint": self.url("introspect"),
            "revocation_endpoint": self.url("revoke"),
            "authorization_endpoint": self.url("auth"),
            "response_types_supported": ["code"],
        }

    def jwks(self) -> dict[str, Any]:
        """Return its public keys."""
        return {"keys": [key.jwk() for key in self.keys]}

    def rotate(self, algorithm: str = "ES256", *, keep: bool = True) -> SigningKey:
        """Sign with a new key from now on, and publish the old ones only if `keep` is set."""
        key = SigningKey.make(f"key-{len(self.keys) + 1}-{next(self._number)}", algorithm)
        self.keys = [key, *self.keys] if keep else [key]
        return key

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a valid access token as Keycloak issues it; `...` removes a claim."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "exp": now + 300,
            "iat": now,
            "jti": f"token-{next(self._number)}",
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "00000000-0000-4000-8000-0000000a11ce",
            "typ": "Bearer",
            "azp": "gatehouse-console",
            "acr": "1",
            "scope": "read:users",
            "realm_access": {"roles": ["user"]},
        } | changes
        return {name: value for name, value in claims.items() if value is not ...}

    def sign(self, **changes: Any) -> str:
        """Return a signed token that introspects as inactive."""
        return self.keys[0].sign(self.claims(**changes))

    def grant(self, **changes: Any) -> str:
        """Return a signed token that introspects as active."""
        claims = self.claims(**changes)
        token = self.keys[0].sign(claims)
        self.activate(token, claims)
        return token

    def activate(self, token: str, claims: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """Let `token` introspect as active with `claims`, by default those of a valid token."""
        answer = dict(self.claims() if claims is None else claims) | changes
        self.introspections[token] = {
            "active": True,
            **{name: value for name, value in answer.items() if value is not ...},
        }

    def revoke(self, token: str) -> None:
        """Let `token` introspect as inactive."""
        self.introspections.pop(token, None)

    def _introspect(self, request: Request) -> Reply:
        if request.basic != (CLIENT_ID, self.secret):
            return Reply({"error": "invalid_client"}, 401)
        return Reply(self.introspections.get(request.form["token"], {"active": False}))

    def _token(self, _: Request) -> Reply:
        return Reply({"access_token": self.grant(), "token_type": "Bearer", "expires_in": 300})


@asynccontextmanager
async def loopback_issuer(
    clock: Callable[[], float] = time.time, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LoopbackIssuer]:
    """Run a LoopbackIssuer, over https with `tls`."""
    issuer = LoopbackIssuer(clock)
    issuer.tls = tls
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
