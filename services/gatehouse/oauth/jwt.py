"""Access tokens that are signed: RFC 7519, RFC 9068, with the advice of RFC 8725."""

from __future__ import annotations

from collections.abc import Callable

import jwt as pyjwt

from gatehouse.oauth._claims import check_claims, decode_part, split
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.errors import InvalidToken
from gatehouse.oauth.keys import KeySet
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import Provider, provider

_ACCESS_TOKEN = "at+jwt"  # noqa: S105 - a media type
_HEADER_TYPES = frozenset({"", "jwt", _ACCESS_TOKEN})


class JwtVerifier:
    """Verifies the signed access tokens of one issuer.

    What is parsed and what is verified is one reading of the token: PyJWT gets the signed bytes, the key
    and the signature, and never the token, of which it might make something else.

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
        self._algorithms = {name: pyjwt.get_algorithm_by_name(name) for name in config.algorithms}

    async def verify(self, token: str) -> Principal:
        """Verifies one access token.

        Raises:
            InvalidToken: It is not valid here.
            IssuerUnavailable: Its key could not be fetched.
        """
        signed, _, encoded = token.rpartition(".")
        parts, signature = split(token), decode_part(encoded)
        if parts is None or signature is None:
            raise InvalidToken("token_malformed")
        header, payload = parts
        name = header.get("alg")
        if not isinstance(name, str) or name not in self._algorithms:
            raise InvalidToken("algorithm_not_allowed")
        if "crit" in header or "b64" in header:
            raise InvalidToken("header_not_understood")
        kind = header.get("typ", "")
        kind = kind.lower().removeprefix("application/") if isinstance(kind, str) else None
        if kind not in _HEADER_TYPES:
            raise InvalidToken("token_type_mismatch")
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise InvalidToken("key_unknown")
        key = await self._keys.key(kid, name)
        if not self._algorithms[name].verify(signed.encode(), key, signature):
            raise InvalidToken("signature_mismatch")
        claims = VerifiedClaims(payload)
        check_claims(
            claims,
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock(),
            leeway=self._config.leeway_seconds,
            issuer_required=True,
        )
        if not (kind == _ACCESS_TOKEN and "typ" not in claims) and not self._provider.is_access_token(claims):
            raise InvalidToken("token_type_mismatch")
        return self._provider.principal_from_claims(self._config.issuer, claims)
