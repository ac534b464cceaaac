"""Verification of signed tokens (RFC 7515, 7519, 8725, 9068)."""

from __future__ import annotations

import base64

import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config, refusal
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, ManualTime, SigningKey, b64

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


async def test_replaced_key_without_kid_is_found_at_once(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    idp.answer("jwks", lambda _: Reply({"keys": [idp.keys[0].jwk(kid=None)]}))
    verifier = await make_verifier(config(idp))
    header = {"alg": "ES256"}
    old = idp.keys[0].sign(idp.claims(), header)
    assert await verifier.verify(old)
    key = idp.rotate(keep=False)

    assert await verifier.verify(key.sign(idp.claims(), header))
    manual_time.advance(30)
    assert await refusal(verifier, old) == "signature_mismatch"
    forged = SigningKey.make("").sign(idp.claims(), header)
    assert [await refusal(verifier, forged) for _ in range(9)] == ["signature_mismatch"] * 9
    assert idp.request_count("jwks") == 3


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_any_changed_byte_is_detected(part: int, idp: LoopbackIssuer, verifier: Verifier) -> None:
    token = idp.sign()
    parts = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    for position in range(len(raw)):
        changed = bytes(raw[:position]) + bytes([raw[position] ^ 1]) + bytes(raw[position + 1 :])
        forged = ".".join([*parts[:part], b64(changed), *parts[part + 1 :]])
        # A changed kid may be a new one, and not each of them is worth a request for the keys.
        with pytest.raises((InvalidToken, IssuerUnavailable)):
            await verifier.verify(forged)
    assert await verifier.verify(token)


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
