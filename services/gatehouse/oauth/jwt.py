"""Access tokens that are signed: RFC 7519, RFC 9068, with the advice of RFC 8725."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt as pyjwt

from gatehouse.oauth._claims import check_claims, decode_part, parse_object
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.errors import InvalidToken
from gatehouse.oauth.keys import KeySet
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import Provider, provider

_DOTS = 2
_HEADER_TYPES = frozenset({"", "jwt", "at+jwt"})


def split(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Returns header and payload of a compact JWS, not verified, or None when it is not one."""
    if token.count(".") != _DOTS:
        return None
    header, payload, _ = token.split(".")
    try:
        return parse_object(decode_part(header)), parse_object(decode_part(payload))
    except InvalidToken:
        return None


class JwtVerifier:
    """Verifies the signed access tokens of one issuer.

    Args:
        config: The issuer.
        keys: Its keys.
        clock: Seconds since the epoch.
    """

    def __init__(self, config: IssuerConfig, keys: KeySet, clock: Callable[[], float]) -> None:
        self._config = config
        self._keys = keys
        self._clock = clock
        self._provider: Provider = provider(config.provider)
        self._jws = pyjwt.PyJWS(algorithms=list(config.algorithms))

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Verifies one access token; `online` makes no difference to a signature.

        Raises:
            InvalidToken: It is not valid here.
            IssuerUnavailable: Its key could not be fetched.
        """
        del online
        header, _ = split(token) or _malformed()
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._config.algorithms:
            raise InvalidToken("algorithm_not_allowed")
        if "crit" in header or "b64" in header:
            raise InvalidToken("header_not_understood")
        kind = header.get("typ", "")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _HEADER_TYPES:
            raise InvalidToken("token_type_mismatch")
        if not isinstance(kid, str):
            raise InvalidToken("key_unknown")
        key = await self._keys.key(kid, algorithm)
        decode_part(token.rpartition(".")[2])
        try:
            payload = self._jws.decode(token, key, algorithms=[algorithm])
        except pyjwt.PyJWTError:
            raise InvalidToken("signature_mismatch") from None
        claims = VerifiedClaims(parse_object(payload))
        expires_at = check_claims(
            claims,
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock(),
            leeway=self._config.leeway,
            issuer_required=True,
        )
        says_access_token = kind.lower().removeprefix("application/") == "at+jwt" and "typ" not in claims
        if not says_access_token and not self._provider.is_access_token(claims):
            raise InvalidToken("token_type_mismatch")
        return self._provider.principal_from_claims(self._config.issuer, claims, expires_at)


def _malformed() -> Any:
    raise InvalidToken("token_malformed")
