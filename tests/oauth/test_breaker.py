"""Bad answers about some tokens, and issuers that cannot be reached at all: who fails, and for how long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable
from gatehouse.oauth._breaker import FAILURE_RATE, MIN_TOKENS, WINDOW_SECONDS, Breaker
from gatehouse.oauth.introspection import FAILED_SECONDS, PROBE_SECONDS
from gatehouse.oauth.multi_issuer import ANSWER_SECONDS
from tests.support.oauth_fixtures import MakeVerifier, Stopwatch, Verifier, config, tls_context
from tests.support.oauth_issuers import LoopbackIssuer, ManualTime, Reply, Request, until

BAD_ANSWERS = {
    "malformed": Reply({"Active": True}),
    "no json": Reply(b"<html>", headers={"content-type": "text/html"}),
    "too large": Reply(b" " * 70_000),
    "500": Reply(b"", 500),
    "404": Reply(b"", 404),
    "302": Reply(b"", 302, {"location": "/elsewhere"}),
}
# For one token, no more than these are; for every token, an outage.
NOT_NOW = {
    "429": Reply(b"", 429),
    "502": Reply(b"", 502),
    "503": Reply(b"", 503),
    "504": Reply(b"", 504),
    "hang up": Reply(hang_up=True),
}
TICK = 0.01


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(config(idp, "introspection"))


def answer_badly(idp: LoopbackIssuer, reply: Reply) -> None:
    """Has tokens that begin with `poison` answered with `reply`."""
    well: Callable[[Request], Any] = idp.answerers["/realms/test/introspect"]

    def answer(request: Request) -> Any:
        return reply if request.form["token"].startswith("poison") else well(request)

    idp.answer("introspect", answer)


async def outcome(verifier: Verifier, token: str, *, online: bool = False) -> str:
    """The reason why `token` is not accepted; "" when it is."""
    try:
        await verifier.verify(token, online=online)
    except (InvalidToken, IssuerUnavailable) as error:
        return error.reason
    return ""


class Load:
    """Calls by the manual clock: 50 a second with poisoned tokens, 20 with good and new ones."""

    def __init__(self, idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime) -> None:
        self._idp = idp
        self._verifiers = verifier
        self._time = manual_time
        self._ticks = 0
        self.poisoned: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    async def run(
        self, seconds: float, poison: Callable[[int], str] | None = None, *, others: bool = True
    ) -> None:
        """Runs for `seconds`; `poison` gives the poisoned token of each call."""
        for _ in range(round(seconds / TICK)):
            self._ticks += 1
            if poison is not None and self._ticks % 2 == 0:
                online = self._ticks % 4 == 0
                self.poisoned[await outcome(self._verifiers, poison(self._ticks), online=online)] += 1
            if others and self._ticks % 5 == 0:
                token = f"good-{self._ticks}"
                self._idp.activate(token)
                self.others[await outcome(self._verifiers, token)] += 1
            self._time.advance(TICK)

    async def until_open(self) -> float:
        """Runs until the breaker is open, and returns how many seconds that took."""
        before = self._time.elapsed
        while not self.others["circuit_open"]:
            assert self._time.elapsed < before + 10
            await self.run(TICK)
        return self._time.elapsed - before

    async def until_closed(self) -> float:
        """Runs until a good token is accepted, and returns how many seconds that took."""
        before = self._time.elapsed
        self.others.clear()
        while not self.others[""]:
            assert self._time.elapsed < before + 10
            await asyncio.sleep(0.001)  # for what runs in the background
            await self.run(TICK)
        return self._time.elapsed - before


@pytest.fixture
def load(idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime) -> Load:
    return Load(idp, verifier, manual_time)


async def open_breaker(verifier: Verifier) -> None:
    """Has as many tokens fail as open the breaker."""
    for number in range(MIN_TOKENS):
        assert await outcome(verifier, f"lost-{number}") not in {"", "circuit_open"}
    assert await outcome(verifier, "lost") == "circuit_open"


# Some tokens.


@pytest.mark.parametrize("reply", (BAD_ANSWERS | NOT_NOW).values(), ids=BAD_ANSWERS | NOT_NOW)
async def test_bad_answers_about_one_token_fail_no_other(
    reply: Reply, idp: LoopbackIssuer, load: Load
) -> None:
    answer_badly(idp, reply)
    await load.run(1, lambda _: "poison", others=False)
    await load.run(3, lambda _: "poison")

    assert load.others == {"": 60}
    assert load.poisoned.total() == 200
    assert not {"", "circuit_open"} & set(load.poisoned)
    asked = idp.asked("introspect") - load.others.total()
    assert asked == 4 / FAILED_SECONDS


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_bad_answers_about_many_tokens_fail_no_other(
    reply: Reply, idp: LoopbackIssuer, load: Load
) -> None:
    answer_badly(idp, reply)
    await load.run(1, lambda number: f"poison-{number}", others=False)
    await load.run(3, lambda number: f"poison-{number}")

    assert load.others == {"": 60}
    assert "circuit_open" not in load.poisoned


async def test_many_tokens_that_the_issuer_hangs_up_on_fail_no_other(idp: LoopbackIssuer, load: Load) -> None:
    await load.run(1)
    answer_badly(idp, Reply(hang_up=True))
    await load.run(3, lambda number: f"poison-{number}")

    assert load.others == {"": 80}


async def test_refusal_of_our_own_credentials_opens_no_breaker(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", client_secret="wrong"))
    for number in range(4 * MIN_TOKENS):
        assert await outcome(verifier, f"token-{number}") == "introspection_refused"


async def test_tokens_that_hang_keep_nobody_out(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    """With no other token to judge by, they open the breaker; the issuer's next response closes it."""
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)
    held = asyncio.Event()
    well: Callable[[Request], Any] = idp.answerers["/realms/test/introspect"]

    async def answer(request: Request) -> Any:
        if request.form["token"].startswith("poison"):
            await held.wait()
        return well(request)

    idp.answer("introspect", answer)
    outcomes = await asyncio.gather(*(outcome(verifier, f"poison-{n}") for n in range(2 * MIN_TOKENS)))
    assert set(outcomes) <= {"introspection_timeout", "issuer_timeout", "circuit_open"}

    assert await Load(idp, verifier, manual_time).until_closed() <= 2 * PROBE_SECONDS
    held.set()


# All tokens.


@pytest.mark.parametrize("reply", [*NOT_NOW.values(), None], ids=[*NOT_NOW, "down"])
async def test_outage_opens_the_breaker_within_two_seconds_and_its_end_closes_it_within_two(
    reply: Reply | None, idp: LoopbackIssuer, load: Load
) -> None:
    well = idp.answerers["/realms/test/introspect"]
    await load.run(3)
    assert load.others == {"": 60}

    if reply is None:
        await idp.down()
    else:
        idp.answer("introspect", reply)
    assert await load.until_open() < 2

    before = idp.asked("introspect")
    load.others.clear()
    await load.run(5, lambda number: f"poison-{number}")
    assert load.others == {"circuit_open": 100}
    assert load.poisoned == {"circuit_open": 250}
    assert idp.asked("introspect") - before <= 5 / PROBE_SECONDS + 1

    if reply is None:
        await idp.up()
    else:
        idp.answer("introspect", well)
    assert await load.until_closed() < 2
    load.others.clear()
    await load.run(3)
    assert load.others == {"": 60}


async def test_hanging_issuer_opens_the_breaker_and_is_unavailable_within_a_second(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=ANSWER_SECONDS)
    idp.hold("introspect")
    async with Stopwatch() as watch:
        outcomes = await asyncio.gather(*(outcome(verifier, f"token-{n}") for n in range(50)))
    assert set(outcomes) <= {"introspection_timeout", "issuer_timeout"}
    assert watch.seconds < 1.0

    await until(lambda: manual_time.pauses == [PROBE_SECONDS])
    before = idp.asked("introspect")
    for number in range(100):
        assert await outcome(verifier, f"later-{number}") == "circuit_open"
        assert await outcome(verifier, "online", online=True) == "circuit_open"
    assert idp.asked("introspect") == before
    idp.release("introspect")


async def test_metadata_that_cannot_be_had_opens_the_breaker(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Else each new token would ask for it again."""
    name = ".well-known/openid-configuration"
    idp.answer(name, Reply(b"<html>"))
    verifier = await make_verifier(config(idp, "introspection"))
    await open_breaker(verifier)
    await until(lambda: not verifier._issuers[idp.issuer]._discovery.busy(None))
    before = idp.asked(name)
    for number in range(100):
        assert await outcome(verifier, f"token-{number}") == "circuit_open"
    assert idp.asked(name) <= before + 1


async def test_end_of_an_outage_is_found_without_any_call(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    await idp.down()
    await open_breaker(verifier)
    await until(lambda: manual_time.pauses == [PROBE_SECONDS])
    await idp.up()
    manual_time.advance(PROBE_SECONDS)
    await until(lambda: idp.asked("introspect") == 1)
    asking = verifier._issuers[idp.issuer]._introspection
    assert asking is not None
    await until(lambda: not asking._breaker.is_open())

    idp.activate("first")
    assert await outcome(verifier, "first") == ""
    assert PROBE_SECONDS == 1.0


async def test_issuer_that_is_down_is_asked_about_tokens_that_nobody_has(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 503))
    await open_breaker(verifier)
    for number in range(1, 4):
        await until(lambda: manual_time.pauses == [PROBE_SECONDS])
        assert idp.asked("introspect") == MIN_TOKENS + number
        manual_time.advance(PROBE_SECONDS)
    await until(lambda: manual_time.pauses == [PROBE_SECONDS])

    probes = [request.form["token"] for request in idp.requests[-4:]]
    assert len(set(probes)) == 4
    assert all(len(probe) >= 32 for probe in probes)


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_bad_answer_too_ends_an_outage(
    reply: Reply, idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.answer("introspect", Reply(b"", 503))
    await open_breaker(verifier)
    await until(lambda: manual_time.pauses == [PROBE_SECONDS])
    idp.answer("introspect", reply)
    manual_time.advance(PROBE_SECONDS)
    await until(lambda: idp.asked("introspect") == MIN_TOKENS + 2)

    asking = verifier._issuers[idp.issuer]._introspection
    assert asking is not None
    await until(lambda: not asking._breaker.is_open())


async def test_answer_that_was_under_way_ends_an_outage(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    idp.activate("slow")
    idp.activate("new")
    well: Callable[[Request], Any] = idp.answerers["/realms/test/introspect"]
    held = asyncio.Event()

    async def answer(request: Request) -> Any:
        if request.form["token"] != "slow":
            return Reply(b"", 503)
        await held.wait()
        return well(request)

    idp.answer("introspect", answer)
    slow = asyncio.create_task(outcome(verifier, "slow"))
    await until(lambda: idp.asked("introspect") == 1)
    await open_breaker(verifier)
    await until(lambda: manual_time.pauses == [PROBE_SECONDS])
    held.set()
    assert await slow == ""

    idp.answer("introspect", well)
    assert await outcome(verifier, "new") == ""


async def test_closing_ends_the_search_for_an_issuer_that_is_down(
    idp: LoopbackIssuer, verifier: Verifier, manual_time: ManualTime
) -> None:
    await idp.down()
    await open_breaker(verifier)
    await until(lambda: manual_time.pauses == [PROBE_SECONDS])
    await verifier.aclose()

    assert manual_time.pauses == []


class Surprising(httpx.AsyncHTTPTransport):
    """Has one request fail with an error that no HTTP library documents, when told so."""

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
        well = idp.answerers["/realms/test/introspect"]
        idp.answer("introspect", Reply(b"", 503))
        await open_breaker(verifier)
        await until(lambda: manual_time.pauses == [PROBE_SECONDS])
        surprising.surprise = True
        manual_time.advance(PROBE_SECONDS)
        await until(lambda: not surprising.surprise)
        idp.answer("introspect", well)

        assert await Load(idp, verifier, manual_time).until_closed() <= 2 * PROBE_SECONDS


# The rate.


def test_few_tokens_open_no_breaker(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(1_000):
        breaker.record(b"token-%d" % (number % (MIN_TOKENS - 1)), reached=False)
    assert not breaker.is_open()

    breaker.record(b"another", reached=False)
    assert breaker.is_open()


@pytest.mark.parametrize(("reached", "opens"), [(10, True), (11, False)])
def test_breaker_opens_when_nine_tokens_of_ten_fail(
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


def test_token_counts_once_and_with_its_latest_outcome(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(MIN_TOKENS):
        breaker.record(b"token-%d" % number, reached=True)
    for number in range(MIN_TOKENS):
        assert not breaker.is_open()
        breaker.record(b"token-%d" % number, reached=False)

    assert breaker.is_open()


def test_outcomes_count_for_a_second_and_a_half(manual_time: ManualTime) -> None:
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


def test_breaker_that_was_closed_forgets_what_opened_it(manual_time: ManualTime) -> None:
    breaker = Breaker(manual_time.monotonic)
    for number in range(MIN_TOKENS):
        breaker.record(b"token-%d" % number, reached=False)
    breaker.record(b"token-0", reached=False)
    assert breaker.is_open()
    breaker.record(b"token-0", reached=True)
    assert not breaker.is_open()

    breaker.record(b"token-1", reached=False)
    assert not breaker.is_open()
