"""The keys of an issuer: which are used, refresh, outages and rotation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from gatehouse.oauth._jwks import read_keys
from gatehouse.oauth.keys import (
    ABSENT_SECONDS,
    ABSENT_SIZE,
    FETCH_AGAIN_SECONDS,
    FETCHES,
    KeySet,
    backoff_seconds,
)
from tests.support.eventually import eventually
from tests.support.oauth_fixtures import ANSWER_SECONDS, CountingObserver, MakeVerifier, Stopwatch, config
from tests.support.oauth_issuers import EPOCH, METADATA, LoopbackIssuer, ManualTime, SigningKey, b64

EC = SigningKey.make("ec")
RSA = SigningKey.make("rsa", "RS256")
ED = SigningKey.make("ed", "EdDSA")
ALL = ("ES256", "ES384", "ES512", "RS256", "RS512", "PS256", "EdDSA")
DAY = 24 * 3600.0


# Reading a JWK Set


@pytest.mark.parametrize(
    "jwk",
    [
        EC.jwk(),
        EC.jwk(use=None),
        EC.jwk(alg=None),
        EC.jwk(key_ops=["verify"]),
        EC.jwk(use=None, key_ops=["verify", "encrypt"]),
        EC.jwk(extra={"a": 1}, x5c=["AAAA"], x5u="https://elsewhere.test"),
    ],
)
def test_verification_key_is_used(jwk: dict[str, Any]) -> None:
    assert set(read_keys({"keys": [jwk]}, ALL)) == {("ec", "ES256"), (None, "ES256")}


def test_key_without_alg_is_used_for_the_pinned_algorithms_of_its_type() -> None:
    keys = read_keys({"keys": [RSA.jwk(alg=None)]}, ("ES256", "RS256", "PS256"))

    assert set(keys) == {(kid, name) for kid in ("rsa", None) for name in ("RS256", "PS256")}


def test_key_with_an_unpinned_algorithm_is_skipped() -> None:
    assert read_keys({"keys": [RSA.jwk(), EC.jwk()]}, ("ES256",)).keys() == {("ec", "ES256"), (None, "ES256")}


def test_key_without_kid_is_for_tokens_without_kid() -> None:
    assert set(read_keys({"keys": [EC.jwk(kid=None)]}, ALL)) == {(None, "ES256")}


def test_token_without_kid_needs_a_key_set_with_one_key_for_its_algorithm() -> None:
    other = SigningKey.make("other")

    assert read_keys({"keys": [EC.jwk(), RSA.jwk(), EC.jwk(kid="again")]}, ALL).keys() == {
        ("ec", "ES256"),
        ("again", "ES256"),
        ("rsa", "RS256"),
        (None, "ES256"),
        (None, "RS256"),
    }
    assert (None, "ES256") not in read_keys({"keys": [EC.jwk(), other.jwk()]}, ALL)
    assert (None, "ES256") not in read_keys({"keys": [EC.jwk(kid=None), other.jwk(kid=None)]}, ALL)


def test_keys_with_the_same_kid_are_not_used() -> None:
    impostor = SigningKey.make("ec")

    assert read_keys({"keys": [EC.jwk(), impostor.jwk(), RSA.jwk()]}, ALL).keys() == {
        ("rsa", "RS256"),
        (None, "RS256"),
    }
    assert ("ec", "ES256") in read_keys({"keys": [EC.jwk(), EC.jwk()]}, ALL)


def test_number_of_keys_is_limited() -> None:
    keys = [EC.jwk(kid=f"key-{number}") for number in range(100)]

    assert {kid for kid, _ in read_keys({"keys": keys}, ALL)} == {None, *(f"key-{n}" for n in range(64))}


@pytest.mark.parametrize(
    ("bits", "used"), [(2047, False), (2048, True), (8192, True), (8193, False)], ids=str
)
def test_rsa_key_is_used_if_it_is_neither_weak_nor_slow(bits: int, used: bool) -> None:
    modulus = b64((2**bits - 1).to_bytes((bits + 7) // 8, "big"))

    assert bool(read_keys({"keys": [RSA.jwk(n=modulus)]}, ALL)) is used


@pytest.mark.parametrize(("exponent", "used"), [(3, True), (2**32 - 1, True), (2**32 + 1, False)], ids=str)
def test_exponent_of_an_rsa_key_has_at_most_32_bits(exponent: int, used: bool) -> None:
    encoded = b64(exponent.to_bytes(5, "big").lstrip(b"\0"))

    assert bool(read_keys({"keys": [RSA.jwk(e=encoded)]}, ALL)) is used


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {"ec": {}}}, {"keys": "ec"}], ids=str)
def test_document_without_a_list_of_keys_is_malformed(document: dict[str, Any]) -> None:
    with pytest.raises(IssuerUnavailable, match="keys_malformed"):
        read_keys(document, ALL)


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["EC", "RSA", "OKP", "oct", "P-256", "P-521", "Ed25519", "sig", "ES256", "AQAB", "AAAA", "A" * 43]
    )
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=1)
)


@settings(deadline=None)
@given(
    base=st.sampled_from([EC.jwk(), RSA.jwk(), ED.jwk()]),
    changes=st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "key_ops", "alg", "kid", "d", "k", "x5c"]),
        _VALUES,
    ),
)
@example(base=RSA.jwk(), changes={"e": "_" * 200})
def test_malformed_key_is_used_or_skipped_without_errors(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    for kid, algorithm in read_keys({"keys": [base | changes]}, ALL):
        assert kid in {None, (base | changes).get("kid")}
        assert algorithm in ALL


# Refresh


class Source:
    """A source of key sets that can fail and wait, and counts the attempts."""

    def __init__(self) -> None:
        self.attempts = 0
        self.document: dict[str, Any] = {"keys": [EC.jwk()]}
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def fetch(self) -> dict[str, Any]:
        self.attempts += 1
        document = self.document
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return document


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def keys(source: Source, manual_time: ManualTime) -> Any:
    keys = KeySet(source.fetch, ALL, manual_time.monotonic, manual_time.sleep)
    yield keys
    await keys.aclose()


async def test_keys_are_refreshed_thirty_seconds_before_they_expire(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    for refreshes in (1, 2, 3):
        await manual_time.until_sleeping(270.0)
        assert source.attempts == refreshes
        manual_time.advance(270.0)
    await eventually(lambda: source.attempts == 4)


async def test_known_key_never_waits_for_a_fetch(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    source.gate = asyncio.Event()
    await manual_time.until_sleeping()
    manual_time.advance(270.0)
    await eventually(lambda: source.attempts == 2)

    # A coroutine that does not wait ends at its first step.
    with pytest.raises(StopIteration):
        keys.key("ec", "ES256").send(None)


async def test_key_is_not_returned_for_another_algorithm(keys: KeySet) -> None:
    await keys.start()

    with pytest.raises(InvalidToken, match="key_unknown"):
        await keys.key("ec", "ES384")


async def refusal_of(keys: KeySet, kid: str) -> str:
    """Return why the key `kid` is not returned."""
    with pytest.raises((InvalidToken, IssuerUnavailable)) as caught:
        await keys.key(kid, "ES256")
    return f"{type(caught.value).__name__}: {caught.value}"


UNKNOWN = "InvalidToken: key_unknown"
PENDING = "IssuerUnavailable: keys_refresh_pending"


async def test_fetches_for_unknown_kids_are_limited(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    refusals = [await refusal_of(keys, f"unknown-{number}") for number in range(200)]
    assert refusals == [UNKNOWN] * FETCHES + [PENDING] * (200 - FETCHES)
    assert source.attempts == 1 + FETCHES

    manual_time.advance(FETCH_AGAIN_SECONDS - 0.001)
    assert await refusal_of(keys, "unknown") == PENDING
    manual_time.advance(0.001)
    assert [await refusal_of(keys, name) for name in ("unknown", "other")] == [UNKNOWN, PENDING]
    assert source.attempts == 2 + FETCHES
    # One who waits for a key has it after the next fetch, whoever causes it.
    source.document = {"keys": [EC.jwk(kid="new")]}
    assert await refusal_of(keys, "new") == PENDING
    manual_time.advance(FETCH_AGAIN_SECONDS)
    assert await refusal_of(keys, "stranger") == UNKNOWN
    assert await keys.key("new", "ES256")
    assert (FETCHES, FETCH_AGAIN_SECONDS) == (5, 6.0)


async def test_absent_key_is_not_fetched_again_for_ten_seconds(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    assert [await refusal_of(keys, "unknown") for _ in range(200)] == [UNKNOWN] * 200
    assert source.attempts == 2
    manual_time.advance(ABSENT_SECONDS)
    source.document = {"keys": [EC.jwk(kid="unknown")]}
    assert await keys.key("unknown", "ES256")
    assert ABSENT_SECONDS == 10.0


async def test_rotation_after_an_unknown_kid_was_sent_refuses_no_valid_token(
    keys: KeySet, source: Source
) -> None:
    await keys.start()
    assert await refusal_of(keys, "junk") == UNKNOWN
    source.document = {"keys": [EC.jwk(kid="new")]}
    assert await keys.key("new", "ES256")


async def test_failed_fetches_count_towards_the_limit_for_unknown_kids(keys: KeySet, source: Source) -> None:
    await keys.start()
    source.error = IssuerUnavailable("keys_failed")
    for number in range(200):
        with pytest.raises(IssuerUnavailable, match="keys_unavailable"):
            await keys.key(f"unknown-{number}", "ES256")
    assert source.attempts == 1 + FETCHES
    assert await keys.key("ec", "ES256")


async def test_concurrent_unknown_kids_share_one_fetch(keys: KeySet, source: Source) -> None:
    await keys.start()
    source.gate = asyncio.Event()
    waiting = [asyncio.create_task(keys.key(f"unknown-{n}", "ES256")) for n in range(ABSENT_SIZE + 10)]
    await eventually(lambda: source.attempts == 2)
    source.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(outcome, InvalidToken) for outcome in outcomes)
    # Those that found the first fetch in progress share another.
    assert source.attempts == 3
    assert len(keys._absent) == ABSENT_SIZE == 1_000


async def test_cancelled_caller_does_not_cancel_the_shared_fetch(keys: KeySet, source: Source) -> None:
    await keys.start()
    source.document = {"keys": [EC.jwk(kid="new")]}
    source.gate = asyncio.Event()
    first = asyncio.create_task(keys.key("new", "ES256"))
    await eventually(lambda: source.attempts == 2)
    second = asyncio.create_task(keys.key("new", "ES256"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()

    assert await second
    assert source.attempts == 2


async def test_key_that_a_fetch_in_progress_misses_is_fetched_again(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    await manual_time.until_sleeping()
    source.gate = asyncio.Event()
    manual_time.advance(270.0)
    await eventually(lambda: source.attempts == 2)
    found = asyncio.create_task(keys.key("new", "ES256"))
    await asyncio.sleep(0)

    source.document = {"keys": [EC.jwk(kid="new")]}
    source.gate.set()

    assert await found
    assert source.attempts == 3


async def test_key_rotated_just_after_a_refresh_is_found_at_once(keys: KeySet, source: Source) -> None:
    await keys.start()
    source.document = {"keys": [EC.jwk(kid="new")]}

    assert await keys.key("new", "ES256")
    assert source.attempts == 2


async def test_withdrawn_key_is_not_used_after_a_refresh(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    source.document = {"keys": [EC.jwk(kid="new")]}
    await manual_time.until_sleeping()
    manual_time.advance(270.0)
    await manual_time.until_sleeping(270.0)

    with pytest.raises(InvalidToken, match="key_unknown"):
        await keys.key("ec", "ES256")


@pytest.mark.parametrize(
    "error", [IssuerUnavailable("keys_failed"), RuntimeError("unexpected"), KeyError("unexpected"), None]
)
async def test_stale_keys_are_used_for_exactly_a_day(
    error: Exception | None, keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    await keys.start()
    source.error, source.document = error, {"keys": []}
    await manual_time.until_sleeping()

    manual_time.advance(DAY - 0.001)
    assert keys.ready
    assert await keys.key("ec", "ES256")
    manual_time.advance(0.001)
    assert not keys.ready
    with pytest.raises(IssuerUnavailable, match="keys_unavailable"):
        await keys.key("ec", "ES256")


async def test_failed_refresh_is_retried_with_backoff(
    keys: KeySet, source: Source, manual_time: ManualTime
) -> None:
    source.error = IssuerUnavailable("keys_failed")
    await keys.start()
    assert not keys.ready
    for attempts, pause in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], start=1):
        await manual_time.until_sleeping(pause)
        assert source.attempts == attempts
        manual_time.advance(pause)
    await eventually(lambda: source.attempts == 8)

    source.error = None
    await manual_time.until_sleeping(30.0)
    manual_time.advance(30.0)
    await eventually(lambda: keys.ready)
    await manual_time.until_sleeping(270.0)


def test_backoff_is_bounded() -> None:
    pauses = [backoff_seconds(n) for n in (1, 2, 3, 4, 5, 6, 7, 10_000)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_key_set_works_before_start(keys: KeySet, source: Source) -> None:
    assert await keys.key("ec", "ES256")
    assert source.attempts == 1


async def test_aclose_cancels_a_fetch_in_progress(source: Source, manual_time: ManualTime) -> None:
    keys = KeySet(source.fetch, ALL, manual_time.monotonic, manual_time.sleep)
    source.gate = asyncio.Event()
    waiting = asyncio.create_task(keys.key("ec", "ES256"))
    await eventually(lambda: source.attempts == 1)

    await keys.aclose()

    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting


async def test_each_attempt_is_reported_with_its_error(source: Source, manual_time: ManualTime) -> None:
    reports: list[str] = []
    keys = KeySet(
        source.fetch,
        ("ES256",),
        manual_time.monotonic,
        manual_time.sleep,
        lambda error: reports.append("" if error is None else f"{error} {error.detail}".strip()),
    )
    await keys.start()
    for error, document in (
        (IssuerUnavailable("keys_failed", detail="HTTP 500"), {}),
        (KeyError("canary"), {}),
        (None, {"keys": [RSA.jwk(), ED.jwk()]}),
        (None, {"keys": [EC.jwk()]}),
    ):
        source.error, source.document = error, document
        await manual_time.until_sleeping()
        manual_time.advance(300.0)
        attempts = source.attempts
        await eventually(lambda: source.attempts > attempts)  # noqa: B023 - awaited here
    assert reports == [
        "",
        "keys_failed HTTP 500",
        "internal_error KeyError",
        "keys_unusable 2 keys, for EdDSA, RS256; accepted ES256",
        "",
    ]
    await keys.aclose()


# Over HTTP


async def test_tokens_of_old_and_new_keys_are_accepted_during_rotation(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp))
    for _ in range(3):
        before = [idp.sign() for _ in range(20)]
        idp.rotate()
        after = [idp.sign() for _ in range(20)]
        assert await asyncio.gather(*(verifier.verify(token) for token in [*after, *before]))
        manual_time.advance(30.0)
    assert idp.request_count("jwks") == 4


async def test_known_keys_are_used_during_an_outage(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime, observer: CountingObserver
) -> None:
    verifier = await make_verifier(config(idp))
    await idp.stop()
    for failures in range(20):
        await manual_time.until_sleeping()
        assert observer.asked.count(("keys", "keys_unreachable")) == failures
        assert await verifier.verify(idp.sign())
        manual_time.advance(manual_time.pauses[0])
    assert verifier.ready

    await idp.start()
    key = idp.rotate()
    await manual_time.until_sleeping()
    manual_time.advance(30.0)
    assert await verifier.verify(key.sign(idp.claims()))


@pytest.mark.parametrize("mode", ["jwt", "hybrid"])
async def test_keys_are_not_fetched_for_a_token_that_is_not_valid(
    mode: str, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Clients may send expired tokens whose key was withdrawn; they need a new token, not a retry."""
    verifier = await make_verifier(config(idp, mode))
    withdrawn = SigningKey.make("withdrawn")
    for number in range(20):
        expired = withdrawn.sign(idp.claims(exp=EPOCH - 100 - number))
        with pytest.raises(InvalidToken, match="token_expired"):
            await verifier.verify(expired)
    assert idp.request_count("jwks") == 1


async def test_unknown_key_of_a_hanging_issuer_is_an_outage_within_a_second(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp), answer_seconds=ANSWER_SECONDS)
    good = idp.sign()
    idp.hold("jwks")
    unknown = SigningKey.make("unknown").sign(idp.claims())
    async with Stopwatch() as watch:
        waiting = asyncio.create_task(verifier.verify(unknown))
        await eventually(lambda: idp.request_count("jwks") == 2)
        assert await verifier.verify(good)
        assert not waiting.done()
        with pytest.raises(IssuerUnavailable, match="issuer_timeout"):
            await waiting

    assert watch.seconds < 1.0
    idp.release("jwks")


async def test_issuer_that_is_down_at_start_is_used_once_it_is_up(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    await idp.stop()
    verifier = await make_verifier(config(idp))
    assert not verifier.ready
    with pytest.raises(IssuerUnavailable, match="keys_unavailable"):
        await verifier.verify(idp.sign())

    await idp.start()
    await manual_time.until_sleeping()
    manual_time.advance(5.0)
    await eventually(lambda: verifier.ready)
    assert await verifier.verify(idp.sign())


async def test_start_waits_for_the_first_fetch(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    idp.hold("jwks")
    verifier = await make_verifier(config(idp), start=False)
    starting = asyncio.create_task(verifier.start())
    await eventually(lambda: idp.request_count("jwks") == 1)
    idp.release("jwks")
    await starting

    assert verifier.ready


@pytest.mark.parametrize(("mode", "endpoint"), [("jwt", "jwks"), ("introspection", METADATA)])
async def test_hanging_issuer_delays_the_start_by_at_most_five_seconds(
    mode: str, endpoint: str, idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    idp.hold(endpoint)
    verifier = await make_verifier(config(idp, mode), start=False)
    starting = asyncio.create_task(verifier.start())
    await manual_time.until_sleeping(5.0)
    assert not starting.done()
    manual_time.advance(5.0)
    await starting
    assert not verifier.ready

    idp.release(endpoint)
    await eventually(lambda: verifier.ready)


async def test_key_of_another_issuer_with_the_same_kid_is_refused(
    idp: LoopbackIssuer, other_idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp), config(other_idp))
    assert idp.keys[0].kid == other_idp.keys[0].kid

    with pytest.raises(InvalidToken, match="signature_mismatch"):
        await verifier.verify(idp.sign(iss=other_idp.issuer))
    assert await verifier.verify(other_idp.sign())
