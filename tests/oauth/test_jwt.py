"""Verification of signed tokens (RFC 7515, 7519, 8725, 9068)."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from gatehouse.oauth import InvalidToken
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config, refusal
from tests.support.oauth_issuers import AUDIENCE, EPOCH, LoopbackIssuer, ManualTime, SigningKey, b64

ALL_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, jwks_uri=idp.url("jwks")))


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
async def test_every_asymmetric_algorithm_can_be_pinned(
    algorithm: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.keys = [SigningKey.make("only", algorithm)]
    verifier = await make_verifier(config(idp, algorithms=(algorithm,)))

    assert (await verifier.verify(idp.sign())).scopes == {"read:users"}


async def test_algorithm_that_is_not_pinned_is_refused(idp: LoopbackIssuer, verifier: Verifier) -> None:
    idp.rotate("RS512")

    assert await refusal(verifier, idp.sign()) == "algorithm_not_allowed"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "nOnE", "", "HS256", "HS512", "ES256K", "es256", None, 1, ["ES256"], {}]
)
async def test_header_cannot_choose_another_algorithm(
    algorithm: Any, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    header = {"alg": algorithm, "typ": "JWT", "kid": idp.keys[0].kid}

    assert await refusal(verifier, idp.keys[0].sign(idp.claims(), header)) == "algorithm_not_allowed"


async def test_public_key_is_not_accepted_as_an_hmac_secret(idp: LoopbackIssuer, verifier: Verifier) -> None:
    """Algorithm confusion (RFC 8725 section 2.1): the published key is used as the HMAC secret."""
    secret = json.dumps(idp.keys[0].jwk()).encode()
    header = {"alg": "HS256", "kid": idp.keys[0].kid}
    signed = ".".join(b64(json.dumps(part).encode()) for part in (header, idp.claims()))
    signature = pyjwt.get_algorithm_by_name("HS256").sign(signed.encode(), secret)

    assert await refusal(verifier, f"{signed}.{b64(signature)}") == "algorithm_not_allowed"


async def test_key_is_bound_to_its_algorithm(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    key = SigningKey.make("rsa", "RS256")
    idp.keys = [key]
    verifier = await make_verifier(config(idp, algorithms=("RS256", "PS256")))
    other = SigningKey("rsa", "PS256", key.private)

    assert await refusal(verifier, other.sign(idp.claims())) == "key_unknown"


@pytest.mark.parametrize("name", ["jku", "x5u", "x5c", "jwk"])
async def test_key_in_the_header_is_ignored(name: str, idp: LoopbackIssuer, verifier: Verifier) -> None:
    attacker = SigningKey.make(idp.keys[0].kid)
    values = {"jwk": attacker.jwk(), "jku": idp.url("evil"), "x5u": idp.url("evil"), "x5c": ["AAAA"]}
    header = {"alg": "ES256", "typ": "JWT", "kid": attacker.kid, name: values[name]}

    assert await refusal(verifier, attacker.sign(idp.claims(), header)) == "signature_mismatch"
    assert idp.request_count("evil") == 0
    assert await verifier.verify(idp.keys[0].sign(idp.claims(), header))


@pytest.mark.parametrize(
    "extra", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": True}]
)
async def test_unknown_critical_header_is_refused(
    extra: dict[str, Any], idp: LoopbackIssuer, verifier: Verifier
) -> None:
    header = {"alg": "ES256", "typ": "JWT", "kid": idp.keys[0].kid} | extra

    assert await refusal(verifier, idp.keys[0].sign(idp.claims(), header)) == "header_not_understood"


@pytest.mark.parametrize(
    ("header_type", "payload_type"),
    [
        ("JWT", "Bearer"),
        ("jwt", "Bearer"),
        ("application/jwt", "Bearer"),
        (..., "Bearer"),
        ("at+jwt", "Bearer"),
    ]
    + [("at+jwt", ...), ("AT+JWT", ...), ("application/at+jwt", ...)],
)
async def test_access_token_types_are_accepted(
    header_type: Any, payload_type: Any, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    header = {"alg": "ES256", "typ": header_type, "kid": idp.keys[0].kid}
    if header_type is ...:
        del header["typ"]

    assert await verifier.verify(idp.keys[0].sign(idp.claims(typ=payload_type), header))


@pytest.mark.parametrize(
    ("header_type", "payload_type"),
    [("JWT", "ID"), ("JWT", "Refresh"), ("JWT", "Offline"), ("JWT", "DPoP"), ("JWT", ...), ("at+jwt", "ID")]
    + [("dpop+jwt", "Bearer"), ("logout+jwt", "Bearer"), ("id+jwt", "Bearer"), ("JWE", "Bearer")]
    + [(1, "Bearer"), (None, "Bearer"), (["JWT"], "Bearer"), ("JWT", ["Bearer"]), ("at+jwt", None)],
)
async def test_token_of_another_type_is_refused(
    header_type: Any, payload_type: Any, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    header = {"alg": "ES256", "typ": header_type, "kid": idp.keys[0].kid}
    token = idp.keys[0].sign(idp.claims(typ=payload_type), header)

    assert await refusal(verifier, token) == "token_type_mismatch"


@pytest.mark.parametrize("kid", [None, 1, ["key-1"], {"a": 1}, "", "KEY-1", "key-1 ", "../key-1"])
async def test_kid_must_match_exactly(kid: Any, idp: LoopbackIssuer, verifier: Verifier) -> None:
    header = {"alg": "ES256", "typ": "JWT", "kid": kid}

    assert await refusal(verifier, idp.keys[0].sign(idp.claims(), header)) == "key_unknown"


@pytest.mark.parametrize("published", ["key-1", None])
async def test_token_without_kid_is_verified_with_the_only_key(
    published: str | None, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    key = idp.keys[0]
    idp.answer("jwks", Reply({"keys": [key.jwk(kid=published), SigningKey.make("rsa", "RS256").jwk()]}))
    verifier = await make_verifier(config(idp))
    header = {"alg": "ES256", "typ": "JWT"}

    assert verifier.ready
    assert await verifier.verify(key.sign(idp.claims(), header))
    assert await refusal(verifier, SigningKey.make("").sign(idp.claims(), header)) == "signature_mismatch"


async def test_token_without_kid_is_refused_if_several_keys_match(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    key = idp.rotate()
    verifier = await make_verifier(config(idp))

    assert await refusal(verifier, key.sign(idp.claims(), {"alg": "ES256"})) == "kid_missing"
    assert await verifier.verify(key.sign(idp.claims()))


async def test_signature_of_another_key_is_refused(idp: LoopbackIssuer, verifier: Verifier) -> None:
    other = SigningKey.make(idp.keys[0].kid)

    assert await refusal(verifier, other.sign(idp.claims())) == "signature_mismatch"


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_any_changed_byte_is_detected(part: int, idp: LoopbackIssuer, verifier: Verifier) -> None:
    token = idp.sign()
    parts = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    for position in range(len(raw)):
        changed = bytes(raw[:position]) + bytes([raw[position] ^ 1]) + bytes(raw[position + 1 :])
        forged = ".".join([*parts[:part], b64(changed), *parts[part + 1 :]])
        with pytest.raises(InvalidToken):
            await verifier.verify(forged)
    assert await verifier.verify(token)


@pytest.mark.parametrize(
    "signature",
    [b"\0" * 64, b"\1" * 64, b"\xff" * 64, b"\0", b"\0" * 63, b"\0" * 65, b"\0" * 72],
    ids=["zeros", "ones", "maximum", "one byte", "short", "long", "der length"],
)
async def test_degenerate_ecdsa_signature_is_refused(
    signature: bytes, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    signed = idp.sign().rpartition(".")[0]

    assert await refusal(verifier, f"{signed}.{b64(signature)}") == "signature_mismatch"


async def test_der_encoded_ecdsa_signature_is_refused(idp: LoopbackIssuer, verifier: Verifier) -> None:
    signed = idp.sign().rpartition(".")[0]
    der = idp.keys[0].private.sign(signed.encode(), ECDSA(SHA256()))

    assert await refusal(verifier, f"{signed}.{b64(der)}") == "signature_mismatch"


@pytest.mark.parametrize(
    "respell",
    [
        lambda h, p, s: f"{h}.{p}.",
        lambda h, p, s: f".{p}.{s}",
        lambda h, p, s: f"{h}..{s}",
        lambda h, p, s: f"{h}.{p}",
        lambda h, p, s: h,
        lambda h, p, s: "",
        lambda h, p, s: "..",
        lambda h, p, s: ".",
        lambda h, p, s: f"{h}.{p}.{s}.",
        lambda h, p, s: f".{h}.{p}.{s}",
        lambda h, p, s: f"{h}.{p}.{s}.{s}",
        lambda h, p, s: f"{h}.{p}.{s}.{s}.{s}",
        lambda h, p, s: "." * 8000,
        lambda h, p, s: f"{h}=.{p}.{s}",
        lambda h, p, s: f"{h}.{p}==.{s}",
        lambda h, p, s: f"{h}.{p}.{s}=",
        lambda h, p, s: f"{h}.{p}.{s}==",
        lambda h, p, s: f" {h}.{p}.{s}",
        lambda h, p, s: f"{h}.{p}.{s} ",
        lambda h, p, s: f"{h}.{p}.{s}\n",
        lambda h, p, s: f"{h}.{p}\n.{s}",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}+",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}/",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}%",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}\0",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}é",
        lambda h, p, s: f"{h}.{p}.{s[:-1]}\ud800",
        lambda h, p, s: f"Bearer {h}.{p}.{s}",
        lambda h, p, s: json.dumps({"protected": h, "payload": p, "signature": s}),
        lambda h, p, s: json.dumps({"payload": p, "signatures": [{"protected": h, "signature": s}]}),
    ],
)
async def test_noncanonical_spelling_of_a_valid_token_is_refused(
    respell: Any, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    token = respell(*idp.sign().split("."))

    assert await refusal(verifier, token) == "token_malformed"


async def test_base64_with_nonzero_spare_bits_is_refused(idp: LoopbackIssuer, verifier: Verifier) -> None:
    """64 bytes of signature leave four spare bits in the last character; only zeros are canonical."""
    signed, _, signature = idp.sign().rpartition(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    assert last % 16 == 0

    for spare in range(1, 16):
        forged = f"{signed}.{signature[:-1]}{alphabet[last + spare]}"
        assert await refusal(verifier, forged) == "token_malformed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda claims: b"",
        lambda claims: b"[" + claims + b"]",
        lambda claims: b"null",
        lambda claims: b'"text"',
        lambda claims: b"1",
        lambda claims: claims[:-1],
        lambda claims: claims + claims,
        lambda claims: claims[:-1] + b',"iss":"b"}',
        lambda claims: claims[:-1] + b',"a":{"b":1,"b":2}}',
        lambda claims: claims[:-1] + b',"a":NaN}',
        lambda claims: claims[:-1] + b',"a":Infinity}',
        lambda claims: claims[:-1] + b',"a":-Infinity}',
        lambda claims: claims[:-1] + b',"a":' + b"9" * 5000 + b"}",
        lambda claims: claims[:-1] + b',"a":"\xff"}',
        lambda claims: b"\xef\xbb\xbf" + claims,
        lambda claims: claims.decode().encode("utf-16"),
        lambda claims: claims.replace(b'"', b"'"),
    ],
    ids=range(17),
)
async def test_payload_must_be_one_json_object(spoil: Any, idp: LoopbackIssuer, verifier: Verifier) -> None:
    claims = json.dumps(idp.claims()).encode()

    assert await verifier.verify(idp.keys[0].sign(claims))
    assert await refusal(verifier, idp.keys[0].sign(spoil(claims))) == "token_malformed"


@pytest.mark.parametrize("header", [b"[]", b"null", b"", b"{", b'{"alg":"ES256","alg":"none"}', b"\xff"])
async def test_header_must_be_one_json_object(header: bytes, idp: LoopbackIssuer, verifier: Verifier) -> None:
    assert await refusal(verifier, idp.keys[0].sign(idp.claims(), header)) == "token_malformed"


async def test_encrypted_token_is_refused_undecoded(verifier: Verifier) -> None:
    """Decrypting a JWE with a huge `p2c` would take minutes."""
    header = b64(
        json.dumps({"alg": "PBES2-HS512+A256KW", "enc": "A256GCM", "p2c": 2**31, "p2s": "AAAA"}).encode()
    )

    assert await refusal(verifier, f"{header}.AAAA.AAAA.AAAA.AAAA") == "token_malformed"


async def test_token_is_limited_to_8_kib(idp: LoopbackIssuer, verifier: Verifier) -> None:
    spare = 8192 - len(idp.sign(pad=""))
    pads = [spare * 3 // 4 - 2 + more for more in range(-4, 6)]
    tokens = [idp.sign(pad="x" * pad) for pad in pads]
    longest = max((t for t in tokens if len(t) <= 8192), key=len)
    shortest = min((t for t in tokens if len(t) > 8192), key=len)
    assert len(longest) >= 8191
    assert len(shortest) <= 8194

    assert await verifier.verify(longest)
    assert await refusal(verifier, shortest) == "token_too_long"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": ...}, "issuer_unknown"),
        ({"iss": None}, "issuer_unknown"),
        ({"iss": 1}, "issuer_unknown"),
        ({"iss": ["a"]}, "issuer_unknown"),
        ({"iss": "https://elsewhere.test"}, "issuer_unknown"),
        ({"aud": ...}, "audience_mismatch"),
        ({"aud": None}, "audience_mismatch"),
        ({"aud": ""}, "audience_mismatch"),
        ({"aud": []}, "audience_mismatch"),
        ({"aud": "gatehouse"}, "audience_mismatch"),
        ({"aud": "gatehouse-api "}, "audience_mismatch"),
        ({"aud": ["other", "Gatehouse-api"]}, "audience_mismatch"),
        ({"aud": {"gatehouse-api": 1}}, "audience_mismatch"),
        ({"aud": [["gatehouse-api"]]}, "audience_mismatch"),
        ({"exp": ...}, "expiry_missing"),
        ({"exp": None}, "claim_malformed"),
        ({"exp": "1900000000"}, "claim_malformed"),
        ({"exp": True}, "claim_malformed"),
        ({"exp": [1900000000]}, "claim_malformed"),
        ({"exp": -1}, "claim_malformed"),
        ({"exp": -0.5}, "claim_malformed"),
        ({"exp": 10**400}, "claim_malformed"),
        ({"exp": 0}, "token_expired"),
        ({"nbf": None}, "claim_malformed"),
        ({"nbf": "0"}, "claim_malformed"),
        ({"nbf": -1}, "claim_malformed"),
        ({"nbf": False}, "claim_malformed"),
        ({"iat": "0"}, "claim_malformed"),
        ({"iat": {}}, "claim_malformed"),
        ({"nbf": EPOCH + 61}, "token_not_yet_valid"),
        ({"iat": EPOCH + 61}, "token_not_yet_valid"),
        ({"sub": ...}, "subject_missing"),
        ({"sub": ""}, "subject_missing"),
        ({"sub": 1}, "subject_missing"),
        ({"cnf": {"jkt": "AAAA"}}, "proof_of_possession_missing"),
        ({"cnf": {"x5t#S256": "AAAA"}}, "proof_of_possession_missing"),
        ({"cnf": {}}, "proof_of_possession_missing"),
    ],
    ids=str,
)
async def test_wrong_claim_is_refused(
    changes: dict[str, Any], reason: str, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert await refusal(verifier, idp.sign(**changes)) == reason


async def test_expiry_beyond_the_greatest_float_is_refused(idp: LoopbackIssuer, verifier: Verifier) -> None:
    payload = json.dumps(idp.claims(exp=12345)).replace("12345", "1e400")

    assert await refusal(verifier, idp.keys[0].sign(payload.encode())) == "claim_malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", AUDIENCE]},
        {"iat": ...},
        {"exp": EPOCH + 0.5},
        {"nbf": EPOCH},
        {"nbf": EPOCH + 60},
        {"iat": EPOCH + 60},
        {"cnf": None},
        {"iat": 0, "nbf": 0},
    ],
    ids=str,
)
async def test_unusual_but_valid_claims_are_accepted(
    changes: dict[str, Any], idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert await verifier.verify(idp.sign(**changes))


@pytest.mark.parametrize("leeway", [60.0, 0.0, 5.0])
async def test_token_expires_exactly_at_exp_plus_leeway(
    leeway: float, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, leeway_seconds=leeway))
    token = idp.sign(exp=EPOCH + 100)

    manual_time.advance(100 + leeway - 0.001)
    assert await verifier.verify(token)
    manual_time.advance(0.001)
    assert await refusal(verifier, token) == "token_expired"


async def test_token_becomes_valid_exactly_at_nbf_minus_leeway(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    token = idp.sign(nbf=EPOCH + 100)

    manual_time.advance(39.999)
    assert await refusal(verifier, token) == "token_not_yet_valid"
    manual_time.advance(0.001)
    assert await verifier.verify(token)


async def test_scope_may_be_empty(idp: LoopbackIssuer, verifier: Verifier) -> None:
    assert (await verifier.verify(idp.sign(scope=""))).scopes == frozenset()


async def test_principal_is_read_only(idp: LoopbackIssuer, verifier: Verifier) -> None:
    principal = await verifier.verify(idp.sign())

    with pytest.raises(TypeError):
        principal.claims["scope"] = "admin"  # type: ignore[index] # it is read-only
    with pytest.raises(TypeError):
        principal.client_roles["a"] = frozenset()  # type: ignore[index] # it is read-only
