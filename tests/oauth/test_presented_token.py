"""The grammar of access tokens and of the authorization entry, at its edges."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import pytest

from gatehouse.oauth import (
    MAX_AUTHORIZATION_CHARS,
    InvalidRequest,
    InvalidToken,
    PresentedToken,
    Refusal,
    parse_authorization,
)
from gatehouse.oauth.presented_token import decode_base64url, is_b64token
from tests.support.oauth_issuers import b64

HEADER, CLAIMS = b64(b'{"alg":"ES256"}'), b64(b'{"sub":"alice"}')
LONGEST = 8192


@pytest.mark.parametrize("token", ["a", "a=", "a==", "-._~+/", "a..", "A.b.9", "x" * LONGEST])
def test_a_b64token_is_accepted(token: str) -> None:
    assert (PresentedToken(token).value, repr(PresentedToken(token))) == (token, "PresentedToken(***)")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "token_malformed"),
        ("=", "token_malformed"),
        ("a=b", "token_malformed"),
        ("a b", "token_malformed"),
        ("a,b", "token_malformed"),
        ("a\n", "token_malformed"),
        ("\u212a", "token_malformed"),
        ("a.b.c.d", "token_malformed"),
        ("x" * (LONGEST + 1), "token_too_long"),
    ],
)
def test_anything_else_is_refused(token: str, reason: str) -> None:
    with pytest.raises(InvalidToken) as caught:
        PresentedToken(token)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("entries", "error", "reason"),
    [
        ([], InvalidToken, "token_missing"),
        (["Bearer a", "Bearer a"], InvalidRequest, "authorization_repeated"),
        (["Bearer a", "Bearer b", "Bearer c"], InvalidRequest, "authorization_repeated"),
        ([b"Bearer a"], InvalidRequest, "authorization_malformed"),
        (["Basic a"], InvalidRequest, "authorization_malformed"),
        (["Bearer"], InvalidRequest, "authorization_malformed"),
        (["a"], InvalidRequest, "authorization_malformed"),
        (["Bearer a b"], InvalidRequest, "authorization_malformed"),
        (["Bearer \ta"], InvalidRequest, "authorization_malformed"),
        (["Bearer a.b.c.d"], InvalidToken, "token_malformed"),
        (["Bearer " + "x" * (LONGEST + 9)], InvalidToken, "token_too_long"),
        (["Bearer " + "x" * (LONGEST + 10)], InvalidRequest, "authorization_too_long"),
        ([b"x" * (LONGEST + 17)], InvalidRequest, "authorization_too_long"),
    ],
)
def test_the_reason_of_a_refused_entry(
    entries: Sequence[str | bytes], error: type[Refusal], reason: str
) -> None:
    with pytest.raises(Refusal) as caught:
        parse_authorization(entries)
    assert (type(caught.value), caught.value.reason) == (error, reason)


def test_an_entry_has_one_token() -> None:
    assert MAX_AUTHORIZATION_CHARS == LONGEST + 16
    for entry in ("Bearer a", "bearer a", "BEARER   a"):
        assert parse_authorization([entry]).value == "a"
    assert parse_authorization(["Bearer " + "x" * LONGEST]).value == "x" * LONGEST


@pytest.mark.parametrize("length", range(9))
def test_every_length_of_base64url_is_decoded(length: int) -> None:
    raw = bytes(range(200, 200 + length))
    text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert decode_base64url(text) == (raw or None)


@pytest.mark.parametrize(
    "part", ["", "A", "AAAAA", "AAAAAAAAA", "AB", "AAB", "AA==", "A+", "A/", "A\n", "AA AA", "é"]
)
def test_another_spelling_of_base64url_is_refused(part: str) -> None:
    assert decode_base64url(part) is None


def test_is_b64token_needs_a_character_before_the_padding() -> None:
    assert [is_b64token(text) for text in ("", "=", "a", "a=", "é", "a\u00e9=")] == [
        False, False, True, True, False, False,
    ]  # fmt: skip


def test_the_parts_of_a_jws_are_split_once() -> None:
    token = PresentedToken(f"{HEADER}.{CLAIMS}.AQI")
    assert token.jws is token.jws
    assert token.jws is not None
    assert (token.jws.header, token.jws.claims) == ({"alg": "ES256"}, {"sub": "alice"})
    assert (token.jws.signing_input, token.jws.signature) == (f"{HEADER}.{CLAIMS}".encode(), b"\1\2")


def test_parts_that_were_forgotten_are_split_again() -> None:
    token = PresentedToken(f"{HEADER}.{CLAIMS}.AQI")
    first = token.jws
    token.forget_jws()
    assert token.jws == first
    assert token.jws is not first


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        f"{HEADER}.{CLAIMS}",
        f"{HEADER}.a.AQI",
        f"a.{CLAIMS}.AQI",
        f"{HEADER}.{b64(json.dumps([1]).encode())}.AQI",
        f"{b64(b'not json')}.{CLAIMS}.AQI",
        "..",
    ],
)
def test_what_is_not_a_jws_is_an_opaque_token(token: str) -> None:
    assert PresentedToken(token).jws is None


@pytest.mark.parametrize("signature", ["", "A", "AB", "A+A", "AAA="])
def test_a_signature_that_is_not_base64url_is_none(signature: str) -> None:
    jws = PresentedToken(f"{HEADER}.{CLAIMS}.{signature}").jws
    assert jws is not None
    assert jws.signature is None
