"""Verification of signed access tokens (RFC 7519, RFC 9068), following RFC 8725."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import jwt as pyjwt
from jwt.algorithms import Algorithm

from gatehouse.oauth._claims import ClaimsVerifier
from gatehouse.oauth.errors import InvalidToken
from gatehouse.oauth.keys import KeySet
from gatehouse.oauth.presented_token import Jws, PresentedToken
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.settings import IssuerSettings

_ACCESS_TOKEN = "at+jwt"  # noqa: S105 - a media type
_HEADER_TYPES = frozenset({"", "jwt", _ACCESS_TOKEN})


class JwtVerifier:
    """Verifies the signed access tokens of one issuer.

    The token is parsed once. PyJWT gets the signed bytes, the key and the signature, but not the token, which
    it might parse differently.

    Args:
        config: The issuer.
        keys: Its keys.
        claims: Checks its claims.
    """

    def __init__(self, config: IssuerSettings, keys: KeySet, claims: ClaimsVerifier) -> None:
        self._keys = keys
        self._claims = claims
        self._algorithms: dict[str, Algorithm] = {
            name: pyjwt.get_algorithm_by_name(name) for name in config.algorithms
        }

    async def verify(self, token: PresentedToken) -> Principal:
        """Verify an access token.

        Raises:
            InvalidToken: The token is invalid.
            IssuerUnavailable: Its key cannot be fetched.
        """
        jws = token.jws
        if jws is None or jws.signature is None:
            raise InvalidToken("token_malformed")
        algorithm = jws.header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("algorithm_not_allowed")
        if "crit" in jws.header or "b64" in jws.header:
            raise InvalidToken("header_not_understood")
        header_type = jws.header.get("typ", "")
        if not isinstance(header_type, str):
            raise InvalidToken("token_type_mismatch")
        header_type = header_type.lower().removeprefix("application/")
        if header_type not in _HEADER_TYPES:
            raise InvalidToken("token_type_mismatch")
        # A token that is invalid by its own claims needs no request for keys, whether genuine or forged.
        self._claims.check(jws.claims)
        await self._verify_signature(jws, algorithm)
        is_rfc9068 = header_type == _ACCESS_TOKEN and "typ" not in jws.claims
        return self._claims.principal(VerifiedClaims(jws.claims), is_access_token=is_rfc9068)

    async def _verify_signature(self, jws: Jws, algorithm: str) -> None:
        kid = jws.header.get("kid")
        if "kid" in jws.header and not isinstance(kid, str):
            raise InvalidToken("key_unknown")
        try:
            key = await self._keys.key(kid, algorithm)
        except InvalidToken:
            raise InvalidToken("key_unknown" if kid is not None else "kid_missing") from None
        if self._is_signed(jws, algorithm, key):
            return
        if kid is None:
            # Without a kid, only this shows that the issuer has replaced its key.
            with suppress(InvalidToken):
                key = await self._keys.key(None, algorithm, other_than=key)
                if self._is_signed(jws, algorithm, key):
                    return
        raise InvalidToken("signature_mismatch")

    def _is_signed(self, jws: Jws, algorithm: str, key: Any) -> bool:
        return self._algorithms[algorithm].verify(jws.signing_input, key, jws.signature or b"")
