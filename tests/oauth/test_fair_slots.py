"""A limit on concurrent work whose waiting callers take turns by source."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gatehouse.oauth import InvalidToken, IssuerUnavailable, PresentedToken
from gatehouse.oauth._fair_slots import FairSlots
from tests.support.eventually import eventually
from tests.support.oauth_fixtures import ANSWER_SECONDS, MakeVerifier, config
from tests.support.oauth_issuers import LoopbackIssuer


class Crowd:
    """Callers that hold a slot until `finish`."""

    def __init__(self, size: int) -> None:
        self.slots = FairSlots(size)
        self.holding: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def join(self, name: str, seconds: float = 60.0) -> asyncio.Task[None]:
        """Let a caller ask for a slot; its source is the first letter of its name."""

        async def hold() -> None:
            async with self.slots.slot(name[0], seconds):
                self.holding.append(name)
                await self._ends.setdefault(name, asyncio.Event()).wait()
            self.holding.remove(name)

        return asyncio.create_task(hold())

    async def finish(self, name: str) -> None:
        """Let a caller give up its slot."""
        self._ends[name].set()
        await eventually(lambda: name not in self.holding)


async def test_sources_take_turns() -> None:
    crowd = Crowd(1)
    tasks = [crowd.join(name) for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1")]
    order = []
    for _ in tasks:
        await eventually(lambda: len(crowd.holding) == 1)
        order.append(crowd.holding[0])
        await crowd.finish(order[-1])
    assert order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_callers_that_give_up_free_their_place_and_no_slot_is_lost() -> None:
    crowd = Crowd(2)
    tasks = [crowd.join(f"a{number}") for number in range(4)]
    await eventually(lambda: len(crowd.holding) == 2)
    with pytest.raises(TimeoutError):
        await crowd.join("b1", seconds=0.001)
    tasks[2].cancel()
    await crowd.finish("a0")
    await eventually(lambda: crowd.holding == ["a1", "a3"])
    # Cancelled at the very moment in which it gets its turn.
    late, next_ = crowd.join("a5"), crowd.join("a6")
    await asyncio.sleep(0)
    crowd.slots._release()
    late.cancel()
    await eventually(lambda: "a6" in crowd.holding)
    assert late.cancelled()
    assert not next_.done()
    for name in ("a1", "a3", "a6"):
        await crowd.finish(name)
    assert crowd.slots._free == 3  # one more, by the release above
    assert not crowd.slots._waiting


async def test_many_tokens_of_one_peer_delay_another_peer_by_one_turn(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", max_introspections=1))
    idp.activate("good")
    idp.hold("introspect")
    junk = [asyncio.create_task(outage_or_refusal(verifier, f"junk-{n}")) for n in range(100)]
    await eventually(lambda: idp.request_count("introspect") == 1)
    good = asyncio.create_task(verifier.verify(PresentedToken("good"), source="peer b"))
    await asyncio.sleep(0)
    idp.release("introspect")

    assert await good
    assert {await task for task in junk} == {"token_inactive"}
    asked = [request.form["token"] for request in idp.requests if request.path.endswith("introspect")]
    assert asked.index("good") == 2  # after the one that was asked before it came, and one turn


async def outage_or_refusal(verifier: Any, token: str) -> str:
    try:
        await verifier.verify(PresentedToken(token), source="peer a")
    except (InvalidToken, IssuerUnavailable) as error:
        return error.reason
    return ""


async def test_waiting_for_a_turn_is_no_outage_of_the_issuer(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(config(idp, "introspection", max_introspections=2), answer_seconds=0.4)
    idp.hold("introspect")
    reasons = await asyncio.gather(*(outage_or_refusal(verifier, f"junk-{n}") for n in range(50)))
    assert set(reasons) <= {"introspection_overload", "introspection_timeout", "issuer_timeout"}
    # Those that wait give up before the first two do, as the issuer would not respond in time to them.
    assert reasons.count("introspection_overload") == 48
    assert idp.request_count("introspect") == 2
    idp.release("introspect")
    idp.activate("good")

    async def accepted() -> bool:
        return await outage_or_refusal(verifier, "good") == ""

    assert await eventually(accepted)


async def test_time_limit_is_a_setting(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    """An issuer that is slower than the default can still be used."""
    verifier = await make_verifier(config(idp, "introspection"), answer_seconds=5.0)
    idp.activate("slow")
    idp.hold("introspect")
    verifying = asyncio.create_task(verifier.verify("slow"))
    await asyncio.wait({verifying}, timeout=ANSWER_SECONDS * 1.1)
    assert not verifying.done()
    idp.release("introspect")
    assert await verifying
