"""Checks of the registered claims, signed or introspected (RFC 7519 section 4.1)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gatehouse.oauth._claim_reader import ClaimReader
from gatehouse.oauth.errors import InvalidToken
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.settings import TENANT, IssuerSettings

ANY_TENANT = "*"
# A tenant becomes part of the issuer that is expected, so it must not contain other parts of a URL.
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
# `aud` means the claim that the setting `audience_claim` names.
REQUIRED = frozenset({"iss", "aud", "exp"})


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return the NumericDate `name` in seconds (RFC 7519 section 2), or None if it is missing.

    Raises:
        InvalidToken: It is not a finite number, or it is negative.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken("claim_malformed")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise InvalidToken("claim_malformed")
    return number


class ClaimsVerifier:
    """Checks the claims of one issuer, and turns them into principals.

    Signed tokens and introspection responses are checked here only. Caches and streams use
    `Principal.expires_at`, which includes the leeway.

    Args:
        config: The issuer.
        clock: Seconds since the epoch.
    """

    def __init__(self, config: IssuerSettings, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self.reader = ClaimReader(config)

    def issuer_of(self, claims: Mapping[str, Any]) -> str | None:
        """Return the `iss` that a token with these claims must have; None if its tenant is not accepted."""
        config = self._config
        if not config.tenants:
            return config.issuer
        tenant = self.reader.tenant(claims)
        if _TENANT.fullmatch(tenant) is None or {tenant, ANY_TENANT}.isdisjoint(config.tenants):
            return None
        return config.issuer.replace(TENANT, tenant)

    def check(self, claims: Mapping[str, Any], required: Collection[str] = REQUIRED) -> str:
        """Check the issuer, tenant, audience, times, `jti` and `cnf`, and return the issuer.

        A token is valid from `nbf` minus leeway until just before `exp` plus leeway. `iat` and `auth_time`
        must not be later than now plus leeway.

        Args:
            claims: Claims of the token or of the introspection response.
            required: Claims that must be present.

        Raises:
            InvalidToken: A claim is missing, malformed or wrong.
        """
        now, leeway = self._clock(), self._config.leeway_seconds
        issuer = self.issuer_of(claims)
        if issuer is None:
            raise InvalidToken("tenant_not_accepted")
        if ("iss" in claims or "iss" in required) and claims.get("iss") != issuer:
            raise InvalidToken("issuer_mismatch")
        audience = self.reader.audience(claims)
        if (audience is not None or "aud" in required) and not self._is_audience(audience):
            raise InvalidToken("audience_mismatch")
        if "exp" not in claims and "exp" in required:
            raise InvalidToken("expiry_missing")
        if now >= self.expires_at(claims):
            raise InvalidToken("token_expired")
        for name in ("nbf", "iat", "auth_time"):
            begins = numeric_date(claims, name)
            if begins is not None and now < begins - leeway:
                raise InvalidToken("token_not_yet_valid")
        if not isinstance(claims.get("jti", ""), str):
            raise InvalidToken("claim_malformed")
        if claims.get("cnf") is not None:
            # A sender-constrained token without its proof may be stolen (RFC 8705, RFC 9449).
            raise InvalidToken("proof_of_possession_missing")
        return issuer

    def principal(
        self,
        claims: VerifiedClaims,
        required: Collection[str] = REQUIRED,
        *,
        is_access_token: bool = False,
    ) -> Principal:
        """Return the principal that `claims` describe.

        Args:
            claims: See `check`.
            required: See `check`.
            is_access_token: Whether the header of the token names its type (RFC 9068 section 2.1).

        Raises:
            InvalidToken: A claim is missing, malformed or wrong, or the token is not an access token.
        """
        issuer = self.check(claims, required)
        if not is_access_token and not self.reader.is_access_token(claims):
            raise InvalidToken("token_type_mismatch")
        return replace(
            self.reader.principal(issuer, claims),
            expires_at=self.expires_at(claims),
            auth_time=numeric_date(claims, "auth_time"),
            claims=self._selected(claims),
        )

    def expires_at(self, claims: Mapping[str, Any]) -> float:
        """Return when a token with these claims ceases to be accepted, in seconds since the epoch."""
        exp = numeric_date(claims, "exp")
        return math.inf if exp is None else exp + self._config.leeway_seconds

    def _is_audience(self, value: object) -> bool:
        audiences = [value] if isinstance(value, str) else value
        if not isinstance(audiences, list) or not all(isinstance(name, str) for name in audiences):
            return False
        return not set(self._config.audience).isdisjoint(audiences)

    def _selected(self, claims: Mapping[str, Any]) -> VerifiedClaims:
        """Return a read-only copy of the claims that handlers may need; a cached principal is shared."""
        selected = {name: claims[name] for name in self._config.claims if name in claims}
        return VerifiedClaims(MappingProxyType(selected))
