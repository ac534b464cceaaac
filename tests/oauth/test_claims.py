"""Reading of tokens, property by property: whatever comes is refused or read, and nothing else happens."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gatehouse.oauth import InvalidToken
from gatehouse.oauth._claims import check_claims, numeric_date
from gatehouse.oauth._json import strict_object
from gatehouse.oauth.presented_token import MAX_TOKEN_CHARS, PresentedToken, decode_base64url, is_b64token
from tests.support.oauth_issuers import b64

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SECONDS = st.floats(min_value=0, max_value=4e9)


@given(st.binary(min_size=1))
def test_bytes_have_one_spelling_in_base64url(raw: bytes) -> None:
    spelling = b64(raw)

    assert decode_base64url(spelling) == raw
    assert decode_base64url(spelling + "=") is None


@given(st.text())
@example("A")
@example("AB")
@example("AAA\n")
@example("٣٣٣٣")
def test_part_is_decoded_only_when_it_would_be_encoded_so(text: str) -> None:
    raw = decode_base64url(text)

    assert raw is None or b64(raw) == text


@given(st.text(alphabet="ABCz09-_"))
def test_alphabet_alone_makes_no_canonical_part(text: str) -> None:
    raw = decode_base64url(text)

    assert (raw is not None) == (
        text != "" and len(text) % 4 != 1 and b64(base64.urlsafe_b64decode(text + "==")) == text
    )


@given(st.text() | st.lists(st.text(alphabet="AZaz09-_"), max_size=5).map(".".join))
@example("..")
@example("e30.e30.e30")
def test_parsing_refuses_or_splits_into_objects(text: str) -> None:
    try:
        jws = PresentedToken(text).jws
    except InvalidToken:
        return
    assert jws is None or (isinstance(jws.header, dict) and isinstance(jws.claims, dict))


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), JSON), st.binary(min_size=1))
def test_parts_of_a_jws_are_those_that_were_encoded(
    header: dict[str, Any], payload: dict[str, Any], signature: bytes
) -> None:
    raw = [json.dumps(part).encode() for part in (header, payload)]
    token = ".".join([*map(b64, raw), b64(signature)])
    assume(len(token) <= MAX_TOKEN_CHARS)
    jws = PresentedToken(token).jws

    if jws is None:
        assert any(b"NaN" in part or b"Infinity" in part for part in raw)
        return
    assert (jws.header, jws.claims, jws.signature) == (header, payload, signature)
    assert jws.signing_input == token.rpartition(".")[0].encode()


def test_a_parsed_token_does_not_show_itself() -> None:
    assert "canary" not in repr(PresentedToken("canary"))


@given(st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5_000)
def test_strict_object_never_raises(raw: bytes) -> None:
    value = strict_object(raw)

    assert value is None or isinstance(value, dict)


@given(st.text(min_size=1), JSON, JSON)
def test_repeated_name_is_refused_at_any_depth(name: str, first: Any, second: Any) -> None:
    def repeated(a: Any, b: Any) -> str:
        return f"{{{json.dumps(name)}:{json.dumps(a)},{json.dumps(name)}:{json.dumps(b)}}}"

    assert strict_object(repeated(first, second).encode()) is None
    assert strict_object(f'{{"outer":[{repeated(first, second)}]}}'.encode()) is None


@given(JSON)
@example(10**400)
@example(math.inf)
@example(math.nan)
@example(-0.0)
@example(True)
def test_numeric_date_is_a_finite_number_or_refused(value: Any) -> None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1.7e308
    if usable:
        assert numeric_date({"exp": value}, "exp") == float(value)
    else:
        with pytest.raises(InvalidToken, match="claim_malformed"):
            numeric_date({"exp": value}, "exp")


@given(now=SECONDS, exp=SECONDS, begins=st.none() | SECONDS, leeway=st.floats(min_value=0, max_value=300))
@example(now=160.0, exp=100.0, begins=None, leeway=60.0)
@example(now=40.0, exp=1000.0, begins=100.0, leeway=60.0)
def test_token_is_good_from_not_before_to_expiry_and_leeway_around(
    now: float, exp: float, begins: float | None, leeway: float
) -> None:
    claims: dict[str, Any] = {"iss": "i", "aud": "a", "exp": exp}
    if begins is not None:
        claims["nbf"] = begins
    good = now < exp + leeway and (begins is None or now >= begins - leeway)

    try:
        check_claims(claims, issuer="i", audience="a", now=now, leeway=leeway, issuer_required=True)
    except InvalidToken:
        assert not good
    else:
        assert good


@given(
    claims=st.fixed_dictionaries({}, optional=dict.fromkeys(("iss", "aud", "exp", "nbf", "iat", "cnf"), JSON))
)
def test_claims_of_any_shape_are_refused_and_never_crash(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        check_claims(claims, issuer="i", audience="a\0", now=0, leeway=60, issuer_required=True)


@pytest.mark.parametrize(
    ("claims", "required", "good"),
    [({}, False, True), ({}, True, False), ({"iss": "i"}, False, True), ({"iss": "x"}, False, False)]
    + [({"iss": None}, False, False)],
)
def test_issuer_may_be_missing_only_in_an_introspection(
    claims: dict[str, Any], required: bool, good: bool
) -> None:
    whole = {"aud": "a", "exp": 10} | claims
    if good:
        check_claims(whole, issuer="i", audience="a", now=0, leeway=0, issuer_required=required)
    else:
        with pytest.raises(InvalidToken, match="issuer_mismatch"):
            check_claims(whole, issuer="i", audience="a", now=0, leeway=0, issuer_required=required)


@pytest.mark.parametrize("token", ["a", "a=", "a==", "A-._~+/9", "abc.def.ghi"])
def test_b64token_grammar_accepts(token: str) -> None:
    assert is_b64token(token)


@pytest.mark.parametrize("token", ["", "=", "a=b", "a b", "a\n", "a,b", 'a"', "é", "a\0", "٣"])
def test_b64token_grammar_refuses(token: str) -> None:
    assert not is_b64token(token)
