"""The access token that a caller presents, parsed once (RFC 6750 section 2.1, RFC 7515 section 7.1)."""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gatehouse.oauth._json import strict_object
from gatehouse.oauth.errors import InvalidRequest, InvalidToken

MAX_TOKEN_CHARS = 8 * 1024
MAX_AUTHORIZATION_CHARS = MAX_TOKEN_CHARS + 16
_DOTS = 2
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# RFC 6750 section 2.1: b64token = 1*( these ) *"=".
_B64TOKEN = (string.ascii_letters + string.digits + "-._~+/").encode()


class Jws(NamedTuple):
    """The parts of a JWS in compact serialization. Nothing in it is verified.

    Attributes:
        header: JOSE header.
        claims: Payload.
        signing_input: Header and payload as they were signed.
        signature: The signature, None if it is not base64url.
    """

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes | None


class PresentedToken:
    """An access token whose length and grammar have been checked. Its signature has not.

    Args:
        value: The token, without its scheme.

    Raises:
        InvalidToken: It is too long, or not a `b64token` of RFC 6750 section 2.1.
    """

    __slots__ = ("_jws", "value")

    def __init__(self, value: str) -> None:
        if len(value) > MAX_TOKEN_CHARS:
            raise InvalidToken("token_too_long")
        if not is_b64token(value) or value.count(".") > _DOTS:
            raise InvalidToken("token_malformed")
        self.value = value
        self._jws: Jws | str | None = ""  # "" means: not split yet

    def __repr__(self) -> str:
        return "PresentedToken(***)"

    @property
    def jws(self) -> Jws | None:
        """The token split into its parts, None if it is not a JWS.

        It is split on first use, because a cached token need not be split.
        """
        if isinstance(self._jws, str):
            self._jws = _split(self.value)
        return self._jws

    def forget_jws(self) -> None:
        """Release the parts, which take much more memory than the token that a stream keeps for hours."""
        self._jws = ""


def parse_authorization(entries: Sequence[str | bytes]) -> PresentedToken:
    """Parse the `authorization` entries of a call (RFC 6750 section 2.1).

    Args:
        entries: All values of `authorization` in the metadata.

    Raises:
        InvalidToken: `token_missing` if there is no entry; or the token is malformed.
        InvalidRequest: There are several entries, or the entry is too long or not of the form `Bearer TOKEN`.
    """
    if not entries:
        raise InvalidToken("token_missing")
    if len(entries) > 1:
        raise InvalidRequest("authorization_repeated")
    entry = entries[0]
    if len(entry) > MAX_AUTHORIZATION_CHARS:
        raise InvalidRequest("authorization_too_long")
    if not isinstance(entry, str):
        raise InvalidRequest("authorization_malformed")
    scheme, _, rest = entry.partition(" ")
    value = rest.lstrip(" ")
    # The scheme is case-insensitive (RFC 9110 section 11.1).
    if scheme.lower() != "bearer" or not is_b64token(value):
        raise InvalidRequest("authorization_malformed")
    return PresentedToken(value)


def is_b64token(value: str) -> bool:
    """Return whether `value` follows the `b64token` grammar of RFC 6750 section 2.1."""
    # Three times as fast as a regular expression on a token of common length.
    body = value.rstrip("=")
    return bool(body) and body.isascii() and not body.encode().translate(None, _B64TOKEN)


def decode_base64url(part: str) -> bytes | None:
    """Decode base64url as RFC 7515 section 2 defines it, or return None.

    Padding, other characters and spare bits are refused, so that a token has exactly one spelling.
    """
    if _BASE64URL.fullmatch(part) is None or len(part) % 4 == 1:
        return None
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=") == part.encode() else None


def _split(token: str) -> Jws | None:
    if token.count(".") != _DOTS:
        return None
    signing_input, _, signature = token.rpartition(".")
    header, claims = (_decode_object(part) for part in signing_input.split("."))
    if header is None or claims is None:
        return None
    return Jws(header, claims, signing_input.encode(), decode_base64url(signature))


def _decode_object(part: str) -> Mapping[str, Any] | None:
    raw = decode_base64url(part)
    return None if raw is None else strict_object(raw)
