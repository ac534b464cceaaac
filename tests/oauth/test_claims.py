"""Parsing of tokens, JSON and claims, mostly as property tests: any input is either parsed or refused."""

from __future__ import annotations

import base64
import json
import math
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gatehouse.oauth import Actor, InvalidToken, VerifiedClaims
from gatehouse.oauth._claims import REQUIRED, ClaimsVerifier, numeric_date
from gatehouse.oauth._json import strict_object
from gatehouse.oauth.presented_token import MAX_TOKEN_CHARS, PresentedToken, decode_base64url, is_b64token
from gatehouse.settings import IssuerSettings
from tests.support.oauth_issuers import b64

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SECONDS = st.floats(min_value=0, max_value=4e9)
ISSUER = "https://issuer.test"
# The smallest integer that is too large for a float.
FLOAT_LIMIT = 2**1024 - 2**970


def claims_verifier(now: float = 0.0, **changes: Any) -> ClaimsVerifier:
    """Return what checks the claims of an issuer with audience `a` at the time `now`."""
    config = IssuerSettings(**({"issuer": ISSUER, "audience": "a", "mode": "jwt"} | changes))
    return ClaimsVerifier(config, lambda: now)


PARTY = {"iss": ISSUER, "aud": "a", "exp": 100, "sub": "alice", "client_id": "c"}


@pytest.mark.parametrize(
    ("act", "actor"),
    [
        ({"sub": "support"}, Actor(ISSUER, "support")),
        ({"sub": "support", "iss": "https://sts.test"}, Actor("https://sts.test", "support")),
        ({"sub": "support", "act": {"sub": "earlier"}}, Actor(ISSUER, "support")),
    ],
)
def test_actor_is_read_from_the_claim_act(act: Any, actor: Actor) -> None:
    found = claims_verifier().principal(VerifiedClaims(PARTY | {"act": act}), is_access_token=True)
    assert (found.subject, found.actor) == ("alice", actor)
    assert found.size() > claims_verifier().principal(VerifiedClaims(PARTY), is_access_token=True).size()


@pytest.mark.parametrize(
    "act",
    [
        None,
        "support",
        [],
        {},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "a", "iss": 7},
        {"sub": "a", "iss": ""},
        {"sub": "a" * 256},
    ],
)
def test_actor_that_cannot_be_recorded_is_refused(act: Any) -> None:
    with pytest.raises(InvalidToken, match="actor_malformed"):
        claims_verifier().principal(VerifiedClaims(PARTY | {"act": act}), is_access_token=True)


# For slow strategies whose further examples repeat the same branches.
few = settings(max_examples=30)


@given(st.binary(min_size=1))
def test_base64url_has_one_encoding_for_each_value(raw: bytes) -> None:
    encoded = b64(raw)

    assert decode_base64url(encoded) == raw
    assert decode_base64url(encoded + "=") is None


@given(st.text())
@example("A")
@example("AB")
@example("AAA\n")
@example("٣٣٣٣")
def test_only_canonical_base64url_is_decoded(text: str) -> None:
    raw = decode_base64url(text)

    assert raw is None or b64(raw) == text


@given(st.text(alphabet="ABCz09-_"))
def test_base64url_with_spare_bits_or_padding_is_not_decoded(text: str) -> None:
    raw = decode_base64url(text)

    assert (raw is not None) == (
        text != "" and len(text) % 4 != 1 and b64(base64.urlsafe_b64decode(text + "==")) == text
    )


@given(st.text() | st.lists(st.text(alphabet="AZaz09-_"), max_size=5).map(".".join))
@example("..")
@example("e30.e30.e30")
def test_token_is_refused_or_split_into_json_objects(text: str) -> None:
    try:
        jws = PresentedToken(text).jws
    except InvalidToken:
        return
    assert jws is None or (isinstance(jws.header, dict) and isinstance(jws.claims, dict))


@few
@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), JSON), st.binary(min_size=1))
def test_parsing_a_jws_returns_the_encoded_parts(
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


def test_repr_of_a_token_does_not_contain_it() -> None:
    assert "canary" not in repr(PresentedToken("canary"))


@given(st.binary() | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5_000)
def test_strict_object_never_raises(raw: bytes) -> None:
    value = strict_object(raw)

    assert value is None or isinstance(value, dict)


@few
@given(st.text(min_size=1), JSON, JSON)
def test_duplicate_member_name_is_refused_at_any_depth(name: str, first: Any, second: Any) -> None:
    key = json.dumps(name)
    repeated = f"{{{key}:{json.dumps(first)},{key}:{json.dumps(second)}}}"

    assert strict_object(repeated.encode()) is None
    assert strict_object(f'{{"outer":[{repeated}]}}'.encode()) is None


@given(JSON)
@example(10**400)
@example(FLOAT_LIMIT)
@example(FLOAT_LIMIT - 1)
@example(1.7000000000000001e308)
@example(math.inf)
@example(math.nan)
@example(-0.0)
@example(True)
def test_numeric_date_must_be_a_finite_number(value: Any) -> None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < FLOAT_LIMIT
    if usable:
        assert numeric_date({"exp": value}, "exp") == float(value)
    else:
        with pytest.raises(InvalidToken, match="claim_malformed"):
            numeric_date({"exp": value}, "exp")


@given(now=SECONDS, exp=SECONDS, begins=st.none() | SECONDS, leeway=st.floats(min_value=0, max_value=300))
@example(now=160.0, exp=100.0, begins=None, leeway=60.0)
@example(now=40.0, exp=1000.0, begins=100.0, leeway=60.0)
def test_token_is_valid_from_nbf_minus_leeway_until_exp_plus_leeway(
    now: float, exp: float, begins: float | None, leeway: float
) -> None:
    claims: dict[str, Any] = {"iss": ISSUER, "aud": "a", "exp": exp}
    if begins is not None:
        claims["nbf"] = begins
    valid = now < exp + leeway and (begins is None or now >= begins - leeway)

    try:
        claims_verifier(now, leeway_seconds=leeway).check(claims)
    except InvalidToken:
        assert not valid
    else:
        assert valid


@given(
    claims=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("iss", "aud", "exp", "nbf", "iat", "auth_time", "jti", "cnf"), JSON)
    )
)
def test_malformed_claims_are_refused_without_other_errors(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        claims_verifier(audience="a\0").check(claims)


@pytest.mark.parametrize(
    ("claims", "required", "accepted"),
    [({}, False, True), ({}, True, False), ({"iss": ISSUER}, False, True), ({"iss": "x"}, False, False)]
    + [({"iss": None}, False, False)],
)
def test_missing_issuer_is_accepted_only_in_an_introspection_response(
    claims: dict[str, Any], required: bool, accepted: bool
) -> None:
    with nullcontext() if accepted else pytest.raises(InvalidToken, match="issuer_mismatch"):
        claims_verifier().check({"aud": "a", "exp": 10} | claims, REQUIRED if required else ("aud", "exp"))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({}, ""),
        ({"iss": "https://other.test"}, "issuer_mismatch"),
        ({"aud": "other"}, "audience_mismatch"),
        ({"exp": 900}, "token_expired"),
    ],
)
def test_claim_that_is_not_required_is_checked_if_present(claims: dict[str, Any], reason: str) -> None:
    """Signed tokens are checked like this before they are introspected."""
    with pytest.raises(InvalidToken, match=reason) if reason else nullcontext():
        claims_verifier(now=1000).check(claims, required=())


@pytest.mark.parametrize(
    ("valid", "tokens"),
    [
        (True, ["a", "a=", "a==", "A-._~+/9", "abc.def.ghi"]),
        (False, ["", "=", "a=b", "a b", "a\n", "a,b", 'a"', "é", "a\0", "٣"]),
    ],
)
def test_b64token_grammar(valid: bool, tokens: list[str]) -> None:
    assert [is_b64token(token) for token in tokens] == [valid] * len(tokens)
