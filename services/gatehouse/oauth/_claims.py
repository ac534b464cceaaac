"""Strict reading of JOSE parts and of the claims of RFC 7519 section 4.1."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from gatehouse.oauth._json import strict_object
from gatehouse.oauth.errors import InvalidToken

MAX_TOKEN_CHARS = 8 * 1024
DOTS = 2
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# RFC 6750 section 2.1.
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


def is_b64token(token: str) -> bool:
    """Whether `token` follows the grammar of RFC 6750 section 2.1."""
    return _B64TOKEN.fullmatch(token) is not None


def decode_part(part: str) -> bytes | None:
    """Decodes base64url as RFC 7515 section 2 has it, or returns None.

    There is no padding, no other character and no spare bit, so that one token has one spelling.
    """
    if _BASE64URL.fullmatch(part) is None or len(part) % 4 == 1:
        return None
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=") == part.encode() else None


def split(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Returns header and payload of a compact JWS, not verified, or None when it is not one."""
    if token.count(".") != DOTS:
        return None
    header, payload, _ = (decode_part(part) for part in token.split("."))
    if header is None or payload is None:
        return None
    head, claims = strict_object(header), strict_object(payload)
    return None if head is None or claims is None else (head, claims)


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Returns the NumericDate `name` in seconds (RFC 7519 section 2), or None when it is missing.

    Raises:
        InvalidToken: It is no finite number, or negative.
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
    """Checks `iss`, `aud`, `exp`, `nbf`, `iat` (RFC 7519 section 4.1).

    A token is good until the moment before `exp` plus leeway, and from the moment `nbf` minus leeway.

    Args:
        claims: Claims of the token or of the introspection answer.
        issuer: What `iss` must be.
        audience: What `aud` must contain.
        now: Seconds since the epoch.
        leeway: Accepted difference of clocks in seconds.
        issuer_required: Whether a missing `iss` is refused.

    Raises:
        InvalidToken: One of them is missing, malformed or wrong.
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
        # A sender-constrained token without its proof is a stolen one (RFC 8705, RFC 9449).
        raise InvalidToken("proof_of_possession_missing")
