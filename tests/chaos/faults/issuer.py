"""Faults of the issuers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.chaos.environment import SCOPE, TOKEN_SECONDS
from tests.chaos.model import UNAVAILABLE, Fault, Run
from tests.support.loopback_http import Handler, Reply, Request
from tests.support.oauth_issuers import METADATA, SigningKey

# The reads have tokens of the second issuer, the writes tokens of the development issuer.
_READS = frozenset({"get_user", "list_users", "count_users"})
_WRITES = frozenset({"create_user"})
_ISSUER = frozenset({"ISSUER_UNAVAILABLE"})
_REFUSED = frozenset({"UNAUTHENTICATED"})
_ENDPOINTS = (METADATA, "jwks", "introspect")


def _use_new_token(run: Run) -> None:
    """Let the reads use a token that must be introspected: one that has been verified goes on."""
    run.work.tokens.value = run.environment.grant()


@asynccontextmanager
async def _killed(run: Run) -> AsyncIterator[None]:
    process = run.environment.stack.processes["issuer"].process
    process.kill()
    await process.wait()
    try:
        yield
    finally:
        await run.environment.stack.restart("issuer")


@asynccontextmanager
async def _down(run: Run) -> AsyncIterator[None]:
    await run.environment.issuer.stop()
    _use_new_token(run)
    try:
        yield
    finally:
        await run.environment.issuer.start()


@asynccontextmanager
async def _hanging(run: Run) -> AsyncIterator[None]:
    issuer = run.environment.issuer
    for endpoint in _ENDPOINTS:
        issuer.hold(endpoint)
    _use_new_token(run)
    try:
        yield
    finally:
        for endpoint in _ENDPOINTS:
            issuer.release(endpoint)


@asynccontextmanager
async def _answering(run: Run, reply: Reply) -> AsyncIterator[None]:
    issuer = run.environment.issuer
    handlers: dict[str, Handler] = {name: issuer.handler(name) for name in _ENDPOINTS}
    for name in _ENDPOINTS:
        issuer.answer(name, reply)
    _use_new_token(run)
    try:
        yield
    finally:
        for name, handler in handlers.items():
            issuer.answer(name, handler)


@asynccontextmanager
async def _errors(run: Run) -> AsyncIterator[None]:
    async with _answering(run, Reply({"error": "server_error"}, 500)):
        yield


@asynccontextmanager
async def _html(run: Run) -> AsyncIterator[None]:
    page = Reply(b"<html><title>Maintenance</title></html>", headers={"content-type": "text/html"})
    async with _answering(run, page):
        yield


@asynccontextmanager
async def _refusing(run: Run) -> AsyncIterator[None]:
    async with _answering(run, Reply({"error": "invalid_client"}, 401)):
        yield


@asynccontextmanager
async def _bad_answer_for_one_token(run: Run) -> AsyncIterator[None]:
    """Answer with status 500 about one token, which a caller sends all the time."""
    environment = run.environment
    issuer, bad = environment.issuer, environment.grant()
    answer = issuer.handler("introspect")

    def introspect(request: Request) -> Reply:
        if request.form["token"] == bad:
            return Reply({"error": "server_error"}, 500)
        reply = answer(request)
        assert isinstance(reply, Reply)
        return reply

    issuer.answer("introspect", introspect)
    try:
        codes = await asyncio.gather(*(run.call_with(bad) for _ in range(100)))
        held = set(codes) == {"UNAVAILABLE"}
        run.guarantee("the calls with this token fail with UNAVAILABLE", held, sorted(set(codes)))
        yield
    finally:
        issuer.answer("introspect", answer)


@asynccontextmanager
async def _rotated(run: Run) -> AsyncIterator[None]:
    for _ in range(3):
        run.environment.issuer.rotate()
        _use_new_token(run)
        await run.calls()
    yield


@asynccontextmanager
async def _replaced(run: Run) -> AsyncIterator[None]:
    run.environment.issuer.rotate(keep=False)
    _use_new_token(run)
    yield


@asynccontextmanager
async def _rotated_after_junk(run: Run) -> AsyncIterator[None]:
    issuer = run.environment.issuer
    for _ in range(3):
        stranger = SigningKey.make(f"stranger-{time.monotonic_ns()}")
        code = await run.call_with(stranger.sign(issuer.claims(scope=SCOPE)))
        run.guarantee(
            "a token of an unknown key is refused", code in {"UNAUTHENTICATED", "UNAVAILABLE"}, code
        )
    issuer.rotate()
    _use_new_token(run)
    yield


@asynccontextmanager
async def _clock_off(run: Run, seconds: int) -> AsyncIterator[None]:
    """Let the clock of the issuer be ahead, or behind; so are the times in its new tokens."""
    environment = run.environment
    issuer, clock = environment.issuer, environment.issuer.clock
    issuer.clock = lambda: clock() + seconds
    now = int(issuer.clock())
    run.work.tokens.value = issuer.grant(scope=SCOPE, nbf=now, exp=now + TOKEN_SECONDS)
    try:
        yield
    finally:
        issuer.clock = clock
        run.work.tokens.value = environment.grant()


FAULTS = (
    Fault(
        "issuer-killed",
        "the development issuer is killed (SIGKILL) and started again; clients have tokens from before",
        _killed,
    ),
    Fault(
        "issuer-down",
        "an issuer refuses connections",
        _down,
        codes=UNAVAILABLE,
        affected=_READS,
        reasons=_ISSUER,
    ),
    Fault(
        "issuer-hangs",
        "an issuer accepts requests and does not answer",
        _hanging,
        codes=UNAVAILABLE,
        affected=_READS,
        reasons=_ISSUER,
    ),
    Fault(
        "issuer-errors",
        "an issuer answers every request with status 500",
        _errors,
        codes=UNAVAILABLE,
        affected=_READS,
        reasons=_ISSUER,
    ),
    Fault(
        "issuer-html",
        "an issuer answers every request with an HTML page",
        _html,
        codes=UNAVAILABLE,
        affected=_READS,
        reasons=_ISSUER,
    ),
    Fault(
        "issuer-refuses",
        "an issuer refuses the client secret of the services (401)",
        _refusing,
        codes=UNAVAILABLE,
        affected=_READS,
        logs="issuer unavailable",
    ),
    Fault(
        "issuer-bad-answer",
        "an issuer answers with status 500 about one token, which a caller sends 100 times",
        _bad_answer_for_one_token,
    ),
    Fault(
        "keys-rotated",
        "three times, an issuer signs with a new key and still publishes the old ones",
        _rotated,
    ),
    Fault(
        "keys-replaced",
        "an issuer signs with a new key and publishes only this one",
        _replaced,
    ),
    Fault(
        "keys-rotated-after-junk",
        "someone sends tokens of unknown keys, then an issuer signs with a new key",
        _rotated_after_junk,
        codes=UNAVAILABLE,
        affected=_READS,
        recovers_within=8.0,
    ),
    Fault(
        "issuer-clock-ahead",
        "the clock of an issuer is 30 s ahead, less than the leeway",
        partial(_clock_off, seconds=30),
    ),
    Fault(
        "issuer-clock-far-ahead",
        "the clock of an issuer is 10 minutes ahead",
        partial(_clock_off, seconds=600),
        codes=_REFUSED,
        affected=_READS,
    ),
    Fault(
        "issuer-clock-behind",
        "the clock of an issuer is two hours behind, so that its new tokens have expired",
        partial(_clock_off, seconds=-7200),
        codes=_REFUSED,
        affected=_READS,
    ),
)
