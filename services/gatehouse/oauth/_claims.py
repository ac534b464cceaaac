"""Strict reading of JOSE parts and of the claims of RFC 7519 section 4.1."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from gatehouse.oauth.errors import InvalidToken

MAX_TOKEN_CHARS = 8 * 1024
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def decode_part(part: str) -> bytes:
    """Decodes base64url as RFC 7515 section 2 has it: no padding, no other characters, no spare bits.

    Raises:
        InvalidToken: `token_malformed`.
    """
    if _BASE64URL.fullmatch(part) is None or len(part) % 4 == 1:
        raise InvalidToken("token_malformed")
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise InvalidToken("token_malformed")
    return raw


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parses a JSON object; NaN, Infinity and repeated names are refused (RFC 7519 section 4).

    Raises:
        InvalidToken: `token_malformed`.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidToken("token_malformed") from None
    if not isinstance(value, dict):
        raise InvalidToken("token_malformed")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Returns the NumericDate `name` in seconds (RFC 7519 section 2), or None when it is missing.

    Raises:
        InvalidToken: It is no finite number, or negative.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken("claim_malformed")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidToken("claim_malformed") from None
    if not math.isfinite(number) or number < 0:
        raise InvalidToken("claim_malformed")
    return number


def check_claims(
    claims: Mapping[str, Any], *, issuer: str, audience: str, now: float, leeway: float, issuer_required: bool
) -> float:
    """Checks `iss`, `aud`, `exp`, `nbf`, `iat` (RFC 7519 section 4.1).

    Args:
        claims: Claims of the token or of the introspection answer.
        issuer: What `iss` must be.
        audience: What `aud` must contain.
        now: Seconds since the epoch.
        leeway: Accepted difference of clocks in seconds.
        issuer_required: Whether a missing `iss` is refused.

    Returns:
        The moment from which the token is no longer accepted, `exp` plus leeway.

    Raises:
        InvalidToken: One of them is missing, malformed or wrong.
    """
    iss = claims.get("iss")
    if iss != issuer and (issuer_required or iss is not None):
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
    nbf = numeric_date(claims, "nbf")
    if nbf is not None and now < nbf - leeway:
        raise InvalidToken("token_not_yet_valid")
    iat = numeric_date(claims, "iat")
    if iat is not None and now < iat - leeway:
        raise InvalidToken("token_not_yet_valid")
    if claims.get("cnf") is not None:
        # A sender-constrained token without its proof is a stolen one (RFC 8705 section 3, RFC 9449
        # section 7).
        raise InvalidToken("proof_of_possession_missing")
    return exp + leeway
