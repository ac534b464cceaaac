"""Checks of the registered claims (RFC 7519 section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gatehouse.oauth.errors import InvalidToken


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


def check_claims(
    claims: Mapping[str, Any], *, issuer: str, audience: str, now: float, leeway: float, issuer_required: bool
) -> None:
    """Check `iss`, `aud`, `exp`, `nbf` and `iat` (RFC 7519 section 4.1).

    A token is valid from `nbf` minus leeway until just before `exp` plus leeway.

    Args:
        claims: Claims of the token or of the introspection response.
        issuer: Required value of `iss`.
        audience: Value that `aud` must contain.
        now: Seconds since the epoch.
        leeway: Accepted clock skew in seconds.
        issuer_required: Whether a missing `iss` is refused.

    Raises:
        InvalidToken: A claim is missing, malformed or wrong.
    """
    if (issuer_required or "iss" in claims) and claims.get("iss") != issuer:
        raise InvalidToken("issuer_mismatch")
    aud = claims.get("aud")
    audiences = [aud] if isinstance(aud, str) else aud
    if not isinstance(audiences, list) or audience not in audiences:
        raise InvalidToken("audience_mismatch")
    exp = numeric_date(claims, "exp")
    if exp is None:
        raise InvalidToken("expiry_missing")
    if now >= exp + leeway:
        raise InvalidToken("token_expired")
    for name in ("nbf", "iat"):
        begins = numeric_date(claims, name)
        if begins is not None and now < begins - leeway:
            raise InvalidToken("token_not_yet_valid")
    if claims.get("cnf") is not None:
        # A sender-constrained token without its proof may be stolen (RFC 8705, RFC 9449).
        raise InvalidToken("proof_of_possession_missing")
