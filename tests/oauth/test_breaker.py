"""Bad introspection responses for some tokens, and issuers that are unavailable for all tokens."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from gatehouse.oauth._breaker import FAILURE_RATE, MIN_TOKENS, WINDOW_SECONDS, Breaker
from gatehouse.oauth.introspection import FAILED_SECONDS, MIN_PAUSE_SECONDS, PROBE_SECONDS
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_fixtures import (
    ANSWER_SECONDS,
    MakeVerifier,
    Stopwatch,
    Verifier,
    config,
    tls_context,
)
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime

BAD_ANSWERS = {
    "malformed": Reply({"Active": True}),
    "no json": Reply(b"<html>", headers={"content-type": "text/html"}),
    "too large": Reply(b" " * 70_000),
    "500": Reply(b"", 500),
    "404": Reply(b"", 404),
    "302": Reply(b"", 302, {"location": "/elsewhere"}),
}
# For one token these are bad responses too; for all tokens they are an outage.
UNAVAILABLE = {
    "429": Reply(b"", 429),
    "502": Reply(b"", 502),
    "503": Reply(b"", 503),
    "504": Reply(b"", 504),
    "hang up": Reply(hang_up=True),
}
TICK = 0.02


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"))


def answer_poison(idp: LoopbackIssuer, reply: Reply) -> None:
    """Answer with `reply` for tokens that start with `poison`."""
    original: Callable[[Request], Any] = idp.handler("introspect")

    def answer(request: Request) -> Any:
        return reply if request.form["token"].startswith("poison") else original(request)

    idp.answer("introspect", answer)


async def outcome(verifier: Verifier, token: str, *, online: bool = False) -> str:
    """Return the reason for which `token` is not accepted, "" if it is accepted."""
    try:
        await verifier.verify(token, online=online)
    except (InvalidToken, IssuerUnavailable) as error:
        return error.reason
    return ""


class Load:
    """Calls by the manual clock: 25 a second with poisoned tokens, 10 with new valid tokens."""

    def __init__(self, idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime) -> None:
        self._idp = idp
        self._verifier = verifier
        self._time = manual_time
        self._ticks = 0
        self.poisoned: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    async def run(
        self, seconds: float, poison: Callable[[int], str] | None = None, *, others: bool = True
    ) -> None:
        """Run for `seconds`; `poison` returns the poisoned token for a tick, None means no such calls."""
        for _ in range(round(seconds / TICK)):
            self._ticks += 1
            if poison is not None and self._ticks % 2 == 0:
                online = self._ticks % 4 == 0
                self.poisoned[await outcome(self._verifier, poison(self._ticks), online=online)] += 1
            if others and self._ticks % 5 == 0:
                token = f"good-{self._ticks}"
                self._idp.activate(token)
                self.others[await outcome(self._verifier, token)] += 1
            self._time.advance(TICK)

    async def until_open(self) -> float:
        """Run until the breaker is open, and return the seconds that took."""
        before = self._time.elapsed
        while not self.others["circuit_open"]:
            assert self._time.elapsed < before + 10
            await self.run(TICK)
        return self._time.elapsed - before

    async def until_closed(self) -> float:
        """Run until a valid token is accepted, and return the seconds that took."""
        before = self._time.elapsed
        self.others.clear()
        while not self.others[""]:
            assert self._time.elapsed < before + 10
            await asyncio.sleep(0.001)  # lets background tasks run
            await self.run(TICK)
        return self._time.elapsed - before


@pytest.fixture
def load(idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime) -> Load:
    return Load(idp, verifier, manual_time)


def breaker_of(verifier: Verifier) -> Breaker:
    """Return the breaker of the only issuer."""
    (issuer,) = verifier._issuers.values()
    assert issuer._introspection is not None
    return issuer._introspection._breaker


async def open_breaker(verifier: Verifier) -> None:
    """Let as many tokens fail as it takes to open the breaker."""
    for number in range(MIN_TOKENS):
        assert await outcome(verifier, f"lost-{number}") not in {"", "circuit_open"}
    assert await outcome(verifier, "lost") == "circuit_open"


# Failures of some tokens


@pytest.mark.parametrize("reply", (BAD_ANSWERS | UNAVAILABLE).values(), ids=BAD_ANSWERS | UNAVAILABLE)
async def test_bad_response_for_one_token_does_not_affect_other_tokens(
    reply: Reply, idp: LoopbackIssuer, load: Load
) -> None:
    answer_poison(idp, reply)
    await load.run(1, lambda _: "poison", others=False)
    await load.run(2, lambda _: "poison")

    assert load.others == {"": 20}
    assert load.poisoned.total() == 75
    assert not {"", "circuit_open"} & set(load.poisoned)
    assert idp.request_count("introspect") - load.others.total() == 3 / FAILED_SECONDS


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_bad_responses_for_many_tokens_do_not_affect_other_tokens(
    reply: Reply, idp: LoopbackIssuer, load: Load
) -> None:
    answer_poison(idp, reply)
    await load.run(1, lambda number: f"poison-{number}", others=False)
    await load.run(1, lambda number: f"poison-{number}")

    assert load.others == {"": 10}
    assert "circuit_open" not in load.poisoned


async def test_dropped_connections_for_many_tokens_do_not_affect_other_tokens(
    idp: LoopbackIssuer, load: Load
) -> None:
    await load.run(1)
    answer_poison(idp, Reply(hang_up=True))
    await load.run(3, lambda number: f"poison-{number}")

    assert load.others == {"": 40}


async def test_rejected_client_credentials_do_not_open_the_breaker(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", client_secret="wrong"))
    for number in range(4 * MIN_TOKENS):
        assert await outcome(verifier, f"token-{number}") == "introspection_refused"


async def test_breaker_opened_by_hanging_tokens_closes_at_the_next_response(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    """Without any other token, hanging tokens look like an outage."""
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)
    held = asyncio.Event()
    original: Callable[[Request], Any] = idp.handler("introspect")

    async def answer(request: Request) -> Any:
        if request.form["token"].startswith("poison"):
            await held.wait()
        return original(request)

    idp.answer("introspect", answer)
    outcomes = await asyncio.gather(*(outcome(verifier, f"poison-{n}") for n in range(2 * MIN_TOKENS)))
    assert set(outcomes) <= {"introspection_timeout", "issuer_timeout", "circuit_open"}

    assert await Load(idp, verifier, manual_time).until_closed() <= 2 * PROBE_SECONDS
    held.set()


# Outages


@pytest.mark.parametrize("reply", [*UNAVAILABLE.values(), None], ids=[*UNAVAILABLE, "down"])
async def test_breaker_opens_and_closes_within_two_seconds_of_an_outage(
    reply: Reply | None, idp: LoopbackIssuer, load: Load
) -> None:
    original = idp.handler("introspect")
    await load.run(2)
    assert load.others == {"": 20}

    if reply is None:
        await idp.stop()
    else:
        idp.answer("introspect", reply)
    assert await load.until_open() < 2

    before = idp.request_count("introspect")
    load.others.clear()
    await load.run(5, lambda number: f"poison-{number}")
    assert load.others == {"circuit_open": 50}
    assert load.poisoned == {"circuit_open": 125}
    assert idp.request_count("introspect") - before <= 5 / PROBE_SECONDS + 1

    if reply is None:
        await idp.start()
    else:
        idp.answer("introspect", original)
    assert await load.until_closed() < 2
    load.others.clear()
    await load.run(1)
    assert load.others == {"": 10}


async def test_waiting_calls_do_not_ask_an_issuer_that_became_unreachable(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", max_introspections=1))
    idp.answer("introspect", Reply(b"", 503))
    outcomes = await asyncio.gather(*(outcome(verifier, f"token-{n}") for n in range(4 * MIN_TOKENS)))

    assert outcomes == ["introspection_failed"] * MIN_TOKENS + ["circuit_open"] * 3 * MIN_TOKENS


async def test_hanging_issuer_opens_the_breaker_within_a_second(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)
    idp.hold("introspect")
    async with Stopwatch() as watch:
        outcomes = await asyncio.gather(*(outcome(verifier, f"token-{n}") for n in range(50)))
    assert set(outcomes) <= {"introspection_timeout", "issuer_timeout"}
    assert watch.seconds < 1.0

    await manual_time.until_sleeping(PROBE_SECONDS)
    before = idp.request_count("introspect")
    for number in range(100):
        assert await outcome(verifier, f"later-{number}") == "circuit_open"
        assert await outcome(verifier, "online", online=True) == "circuit_open"
    assert idp.request_count("introspect") == before
    idp.release("introspect")


async def test_online_calls_to_a_hanging_issuer_open_the_breaker(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Their requests are not shared, so each must end before the timeout of its call cancels it."""
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=0.5)
    idp.hold("introspect")
    numbers = itertools.count()

    async def is_open() -> bool:
        tokens = [f"online-{next(numbers)}" for _ in range(MIN_TOKENS)]
        outcomes = await asyncio.gather(*(outcome(verifier, token, online=True) for token in tokens))
        return "circuit_open" in outcomes

    await eventually(is_open, 30)
    idp.release("introspect")


async def test_unavailable_metadata_opens_the_breaker(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Otherwise each new token would cause another request for it."""
    idp.answer(METADATA, Reply(b"<html>"))
    verifier = await make_verifier(config(idp, "introspection"))
    await open_breaker(verifier)
    await eventually(lambda: not verifier._issuers[idp.issuer]._endpoints._discovery.busy(None))
    before = idp.request_count(METADATA)
    for number in range(100):
        assert await outcome(verifier, f"token-{number}") == "circuit_open"
    assert idp.request_count(METADATA) <= before + 1


async def test_recovery_is_detected_without_any_call(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    await idp.stop()
    for number in range(MIN_TOKENS):
        assert await outcome(verifier, f"lost-{number}") == "introspection_unreachable"
    await manual_time.until_sleeping(PROBE_SECONDS)
    await idp.start()
    manual_time.advance(PROBE_SECONDS)
    await eventually(lambda: idp.request_count("introspect") == 1)
    await eventually(lambda: not breaker_of(verifier).is_open())

    idp.activate("first")
    assert await outcome(verifier, "first") == ""
    assert PROBE_SECONDS == 1.0


async def test_unavailable_issuer_is_probed_with_random_tokens(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 503))
    await open_breaker(verifier)
    for number in range(1, 4):
        await manual_time.until_sleeping(PROBE_SECONDS)
        assert idp.request_count("introspect") == MIN_TOKENS + number
        manual_time.advance(PROBE_SECONDS)
    await manual_time.until_sleeping(PROBE_SECONDS)

    probes = [request.form["token"] for request in idp.requests[-4:]]
    assert len(set(probes)) == 4
    assert all(len(probe) >= 32 for probe in probes)


async def test_slow_probe_is_followed_by_a_short_pause(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 503))
    await open_breaker(verifier)
    await manual_time.until_sleeping(PROBE_SECONDS)
    idp.hold("introspect")
    manual_time.advance(PROBE_SECONDS)
    await eventually(lambda: idp.request_count("introspect") == MIN_TOKENS + 2)
    manual_time.advance(5 * PROBE_SECONDS)
    idp.release("introspect")

    await manual_time.until_sleeping()
    assert manual_time.pauses == [pytest.approx(MIN_PAUSE_SECONDS)]
    assert MIN_PAUSE_SECONDS == 0.1


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_bad_response_closes_the_breaker(
    reply: Reply, idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 503))
    await open_breaker(verifier)
    await manual_time.until_sleeping(PROBE_SECONDS)
    idp.answer("introspect", reply)
    manual_time.advance(PROBE_SECONDS)
    await eventually(lambda: idp.request_count("introspect") == MIN_TOKENS + 2)

    await eventually(lambda: not breaker_of(verifier).is_open())


async def test_response_to_an_earlier_request_closes_the_breaker(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("slow")
    idp.activate("new")
    original: Callable[[Request], Any] = idp.handler("introspect")
    held = asyncio.Event()

    async def answer(request: Request) -> Any:
        if request.form["token"] != "slow":
            return Reply(b"", 503)
        await held.wait()
        return original(request)

    idp.answer("introspect", answer)
    slow = asyncio.create_task(outcome(verifier, "slow"))
    await eventually(lambda: idp.request_count("introspect") == 1)
    await open_breaker(verifier)
    await manual_time.until_sleeping(PROBE_SECONDS)
    held.set()
    assert await slow == ""

    idp.answer("introspect", original)
    assert await outcome(verifier, "new") == ""


async def test_aclose_stops_the_probes(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    await idp.stop()
    await open_breaker(verifier)
    await manual_time.until_sleeping(PROBE_SECONDS)
    await verifier.aclose()

    assert manual_time.pauses == []


class Surprising(httpx.AsyncHTTPTransport):
    """Fails one request with an unexpected error if `surprise` is set."""

    surprise = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.surprise:
            self.surprise = False
            raise RuntimeError("unexpected")
        return await super().handle_async_request(request)


@pytest.fixture
async def surprising() -> AsyncIterator[Surprising]:
    async with Surprising(verify=tls_context(), trust_env=False) as transport:
        yield transport


async def test_unexpected_error_does_not_keep_the_breaker_open(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime, surprising: Surprising
) -> None:
    async with httpx.AsyncClient(transport=surprising) as http:
        verifier = await make_verifier(config(idp, "introspection"), http=http)
        original = idp.handler("introspect")
        idp.answer("introspect", Reply(b"", 503))
        await open_breaker(verifier)
        await manual_time.until_sleeping(PROBE_SECONDS)
        surprising.surprise = True
        manual_time.advance(PROBE_SECONDS)
        await eventually(lambda: not surprising.surprise)
        idp.answer("introspect", original)

        assert await Load(idp, verifier, manual_time).until_closed() <= 2 * PROBE_SECONDS


# The failure rate


def test_breaker_needs_a_minimum_number_of_tokens_to_open(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(1_000):
        breaker.record(b"token-%d" % (number % (MIN_TOKENS - 1)), reached=False)
    assert not breaker.is_open()

    breaker.record(b"another", reached=False)
    assert breaker.is_open()


@pytest.mark.parametrize(("reached", "opens"), [(10, True), (11, False)])
def test_breaker_opens_at_a_failure_rate_of_90_percent(
    reached: int, opens: bool, manual_time: ManualTime
) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(reached):
        breaker.record(b"good-%d" % number, reached=True)
    for number in range(90):
        assert not breaker.is_open()
        breaker.record(b"bad-%d" % number, reached=False)

    assert breaker.is_open() is opens
    assert FAILURE_RATE == 0.9


def test_token_counts_once_with_its_latest_outcome(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(MIN_TOKENS):
        breaker.record(b"token-%d" % number, reached=True)
    for number in range(MIN_TOKENS):
        assert not breaker.is_open()
        breaker.record(b"token-%d" % number, reached=False)

    assert breaker.is_open()


def test_outcomes_expire_after_a_second_and_a_half(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(MIN_TOKENS - 1):
        breaker.record(b"token-%d" % number, reached=False)
    manual_time.advance(WINDOW_SECONDS)
    breaker.record(b"later", reached=False)
    assert not breaker.is_open()

    for number in range(MIN_TOKENS - 1):
        breaker.record(b"token-%d" % number, reached=False)
    assert breaker.is_open()
    assert WINDOW_SECONDS == 1.5


def test_closed_breaker_forgets_earlier_outcomes(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(MIN_TOKENS):
        breaker.record(b"token-%d" % number, reached=False)
    breaker.record(b"token-0", reached=False)
    assert breaker.is_open()
    breaker.record(b"token-0", reached=True)
    assert not breaker.is_open()

    breaker.record(b"token-1", reached=False)
    assert not breaker.is_open()
