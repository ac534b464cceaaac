"""The client's side: token, introspection and revocation requests, and the source of client credentials."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from email.utils import format_datetime
from typing import Any, Protocol

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.client import ClientCredentials, TokenSource, introspect, request_token, revoke
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, ManualTime, until

FORM = {"grant_type": "client_credentials"}
LIFETIME = 300.0


def answer(token: str = "token-1", **changes: Any) -> dict[str, Any]:
    """A good answer of a token endpoint; a change to `...` leaves a member out."""
    body = {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME} | changes
    return {name: value for name, value in body.items() if value is not ...}


class Middle(random.Random):
    """Jitter that is none, and a rest that is as long as it can be."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0 if a < 0 else b


class MakeSource(Protocol):
    def __call__(self, **changes: Any) -> ClientCredentials: ...


@pytest.fixture
def numbered(idp: LoopbackIssuer) -> Callable[[Request], Reply]:
    """Gives tokens of rising number: token-1, token-2."""

    def give(_: Request) -> Reply:
        return Reply(answer(f"token-{idp.request_count('token')}"))

    idp.answer("token", give)
    return give


@pytest.fixture
async def make_source(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> AsyncIterator[MakeSource]:
    async with AsyncExitStack() as stack:

        def make(**changes: Any) -> ClientCredentials:
            values: dict[str, Any] = {
                "http": http,
                "client_id": "worker",
                "client_secret": "secret",
                "token_endpoint": idp.url("token"),
                "clock": manual_time.clock,
                "monotonic": manual_time.monotonic,
                "rng": Middle(),
            }
            source = ClientCredentials(**(values | changes))
            stack.push_async_callback(source.aclose)
            return source

        yield make


@pytest.fixture
def source(make_source: MakeSource, numbered: object) -> ClientCredentials:
    del numbered
    return make_source()


# One request for a token.


async def test_token_is_asked_for_as_rfc_6749_has_it(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(answer(scope="a b", refresh_token="r", id_token="i", other=1)))
    got = await request_token(http, idp.url("token"), {**FORM, "scope": "a b"}, ("worker", "s:%"))

    request = idp.last("token")
    assert (request.method, request.basic) == ("POST", ("worker", "s:%"))
    assert request.form == {"grant_type": "client_credentials", "scope": "a b"}
    assert (got.access_token, got.token_type, got.expires_in) == ("token-1", "Bearer", 300.0)
    assert (got.scope, got.refresh_token, got.id_token) == ("a b", "r", "i")


async def test_public_client_names_itself_in_the_form(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(answer()))
    await request_token(http, idp.url("token"), {"grant_type": "password", "client_id": "console"})

    assert "authorization" not in idp.last("token").headers
    assert idp.last("token").form["client_id"] == "console"


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
async def test_token_type_has_no_case(kind: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(answer(token_type=kind)))

    assert (await request_token(http, idp.url("token"), FORM)).token_type == "Bearer"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(300, 300.0), (0.5, 0.5), (10**9, 86_400.0), (10**400, 86_400.0), (..., 60.0), (None, 60.0)]
    + [(0, 60.0), (-5, 60.0), ("300", 60.0), (True, 60.0), ([300], 60.0)],
    ids=range(11),
)
async def test_lifetime_is_bounded_and_has_a_default(
    value: Any, seconds: float, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(answer(expires_in=value)))

    assert (await request_token(http, idp.url("token"), FORM)).expires_in == seconds


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": ...},
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 1},
        {"access_token": ["token"]},
        {"access_token": "two words"},
        {"access_token": "line\nbreak"},
        {"access_token": "tökën"},
        {"token_type": ...},
        {"token_type": 1},
        {"token_type": "DPoP"},
        {"token_type": "mac"},
    ],
    ids=str,
)
async def test_answer_without_a_usable_token_is_malformed(
    changes: dict[str, Any], http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(answer(**changes)))

    with pytest.raises(TokenRequestFailed, match=r"^malformed_answer$"):
        await request_token(http, idp.url("token"), FORM)


@pytest.mark.parametrize(
    "changes", [{"scope": ["a"]}, {"refresh_token": 1}, {"id_token": None}, {"scope": None}], ids=str
)
async def test_other_members_of_a_wrong_shape_count_as_not_there(
    changes: dict[str, Any], http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(answer(**changes)))
    got = await request_token(http, idp.url("token"), FORM)

    assert (got.scope, got.refresh_token, got.id_token) == ("", None, None)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", ["invalid_client", "invalid_scope", "slow_down", "use_dpop_nonce"])
async def test_refusal_carries_its_code(
    status: int, error: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply({"error": error, "error_description": "canary"}, status))

    with pytest.raises(TokenRequestFailed) as caught:
        await request_token(http, idp.url("token"), FORM)
    assert (str(caught.value), caught.value.error) == (error, error)


@pytest.mark.parametrize(
    "body",
    [{"error": "canary"}, {"error": 1}, {"error": ["invalid_client"]}, {}, b"", b"<html>", [], b"null"],
)
async def test_code_that_no_rfc_knows_is_not_repeated(
    body: Any, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(body, 400))

    with pytest.raises(TokenRequestFailed, match=r"^malformed_answer$"):
        await request_token(http, idp.url("token"), FORM)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "100000"}, 300.0),
        ({"retry-after": "9" * 400}, 300.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
    ],
    ids=str,
)
async def test_busy_endpoint_may_say_how_long(
    status: int,
    header: dict[str, str],
    seconds: float | None,
    http: httpx.AsyncClient,
    idp: LoopbackIssuer,
) -> None:
    idp.answer("token", Reply({"error": "server_error"}, status, header))

    with pytest.raises(IssuerUnavailable, match=r"^token_endpoint_busy$") as caught:
        await request_token(http, idp.url("token"), FORM)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(20, 20.0), (-20, 0.0), (10_000, 300.0)])
async def test_busy_endpoint_may_say_until_when(
    ahead: int, seconds: float, http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    from datetime import UTC, datetime

    date = format_datetime(datetime.fromtimestamp(EPOCH + ahead, UTC), usegmt=True)
    idp.answer("token", Reply(b"", 503, {"retry-after": date}))

    with pytest.raises(IssuerUnavailable) as caught:
        await request_token(http, idp.url("token"), FORM, clock=manual_time.clock)
    assert caught.value.retry_after == seconds


@given(st.text(alphabet=st.characters(), max_size=40))
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    from gatehouse.client.client_credentials import MAX_RETRY_AFTER_SECONDS, _retry_after_seconds

    seconds = _retry_after_seconds(value, lambda: EPOCH)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


async def test_token_endpoint_must_be_safe_to_ask(http: httpx.AsyncClient) -> None:
    with pytest.raises(IssuerUnavailable, match="url_not_https"):
        await request_token(http, "http://issuer.test/token", FORM, ("a", "b"))


def test_answer_shows_no_token(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    from gatehouse.client import TokenResponse

    shown = repr(TokenResponse("canary-a", "Bearer", 60.0, "read:users", "canary-r", "canary-i"))

    assert "canary" not in shown
    assert "read:users" in shown


# Introspection and revocation, for a person at a terminal.


async def test_introspection_gives_the_answer_as_it_is(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("introspect", Reply({"active": True, "scope": "a"}))
    found = await introspect(http, idp.url("introspect"), "api", "secret", "opaque")

    assert found == {"active": True, "scope": "a"}
    assert idp.last("introspect").basic == ("api", "secret")
    assert idp.last("introspect").form == {"token": "opaque"}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply({"error": "invalid_client"}, 401), "invalid_client"),
        (Reply({"error": "invalid_request"}, 403), "invalid_request"),
        (Reply(b"<html>"), "malformed_answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_introspection_that_is_refused_says_so(
    reply: Reply, text: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("introspect", reply)

    with pytest.raises(TokenRequestFailed, match=f"^{text}$"):
        await introspect(http, idp.url("introspect"), "api", "secret", "opaque")


async def test_confidential_client_revokes(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    await revoke(http, idp.url("revoke"), "worker", "secret", "opaque")

    assert idp.last("revoke").basic == ("worker", "secret")
    assert idp.last("revoke").form == {"token": "opaque"}


async def test_public_client_revokes(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    await revoke(http, idp.url("revoke"), "console", None, "opaque")

    assert "authorization" not in idp.last("revoke").headers
    assert idp.last("revoke").form == {"token": "opaque", "client_id": "console"}


@pytest.mark.parametrize("status", [200, 400])
async def test_revocation_that_is_refused_says_so_whatever_its_status(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    """Keycloak answers 200 for an unknown token, with an error in the body."""
    idp.answer("revoke", Reply({"error": "invalid_token"}, status))

    with pytest.raises(TokenRequestFailed, match=r"^invalid_token$"):
        await revoke(http, idp.url("revoke"), "worker", "secret", "opaque")


# The source of client credentials.


async def test_source_asks_once_and_serves_until_it_renews(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    assert [await source.token() for _ in range(3)] == ["token-1"] * 3
    manual_time.advance(LIFETIME * 0.8 - 0.001)
    assert await source.token() == "token-1"
    assert idp.request_count("token") == 1
    assert idp.last("token").basic == ("worker", "secret")
    assert idp.last("token").form == FORM


async def test_source_asks_for_its_scope(make_source: MakeSource, idp: LoopbackIssuer) -> None:
    await make_source(scope="read:users admin").token()

    assert idp.last("token").form == FORM | {"scope": "read:users admin"}


async def test_source_finds_the_token_endpoint_once(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object, manual_time: ManualTime
) -> None:
    source = make_source(token_endpoint=None, issuer=idp.issuer)
    assert await source.token() == "token-1"
    manual_time.advance(LIFETIME)
    assert await source.token() == "token-2"

    assert idp.request_count(".well-known/openid-configuration") == 1


async def test_source_finds_the_token_endpoint_elsewhere(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object
) -> None:
    outside = "https://id.gatehouse.test/realms/r"
    idp.answer("metadata", Reply(idp.metadata() | {"issuer": outside}))
    source = make_source(token_endpoint=None, issuer=outside, discovery_url=idp.url("metadata"))

    assert await source.token() == "token-1"


async def test_issuer_without_a_token_endpoint_is_an_outage(
    make_source: MakeSource, idp: LoopbackIssuer
) -> None:
    metadata = idp.metadata()
    del metadata["token_endpoint"]
    idp.answer(".well-known/openid-configuration", Reply(metadata))

    with pytest.raises(IssuerUnavailable, match="token_endpoint_missing"):
        await make_source(token_endpoint=None, issuer=idp.issuer).token()


async def test_many_who_ask_at_once_make_one_request(source: TokenSource, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    waiting = [asyncio.create_task(source.token()) for _ in range(500)]
    await until(lambda: idp.request_count("token") == 1)
    idp.release("token")

    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert idp.request_count("token") == 1


async def test_old_token_serves_while_the_new_one_is_on_its_way(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    await source.token()
    manual_time.advance(LIFETIME * 0.8)
    idp.hold("token")
    assert [await source.token() for _ in range(50)] == ["token-1"] * 50
    await until(lambda: idp.request_count("token") == 2)
    assert await source.token() == "token-1"
    idp.release("token")
    async with asyncio.timeout(5):
        while await source.token() == "token-1":
            await asyncio.sleep(0.001)

    assert await source.token() == "token-2"
    assert idp.request_count("token") == 2


async def test_token_that_has_ended_serves_nobody(
    source: ClientCredentials, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    await source.token()
    manual_time.advance(LIFETIME - 0.001)
    assert await source.token() == "token-1"
    await until(lambda: idp.request_count("token") == 2)
    await until(lambda: not source._flight.busy(None))
    manual_time.advance(LIFETIME)

    assert await source.token() == "token-3"


async def test_lifetime_counts_from_the_question(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.hold("token")
    waiting = asyncio.create_task(source.token())
    await until(lambda: idp.request_count("token") == 1)
    manual_time.advance(100)
    idp.release("token")
    await waiting
    manual_time.advance(200)

    assert await source.token() == "token-2"


async def test_renewals_of_many_clients_are_spread(
    make_source: MakeSource, idp: LoopbackIssuer, numbered: object, manual_time: ManualTime
) -> None:
    """Between 75 and 85 percent of the lifetime, each at its own moment."""
    sources = [make_source(rng=random.Random(seed)) for seed in range(20)]
    for source in sources:
        await source.token()
    moments = []
    manual_time.advance(LIFETIME * 0.75 - 0.001)
    for _ in range(31):
        asked = idp.request_count("token")
        for source in sources:
            await source.token()
        await until(lambda: not any(source._flight.busy(None) for source in sources))
        moments.append(idp.request_count("token") - asked)
        manual_time.advance(1.0)

    assert moments[0] == 0
    assert sum(moments) == 20
    assert max(moments) <= 5
    assert sum(count > 0 for count in moments) >= 8


async def test_outage_leaves_the_old_token_in_service_and_the_endpoint_alone(
    source: ClientCredentials, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    await source.token()
    idp.answer("token", Reply(b"", 503))
    manual_time.advance(LIFETIME * 0.8)
    for asked, rest in ((2, 1.0), (3, 2.0), (4, 4.0)):
        assert [await source.token() for _ in range(10)] == ["token-1"] * 10
        await until(lambda asked=asked: idp.request_count("token") == asked)  # type: ignore[misc]
        await until(lambda: not source._flight.busy(None))
        manual_time.advance(rest - 0.001)
        assert await source.token() == "token-1"
        assert idp.request_count("token") == asked
        manual_time.advance(0.001)

    # It ends while the endpoint is away, and comes back by itself.
    manual_time.advance(LIFETIME)
    with pytest.raises(IssuerUnavailable, match="token_endpoint_busy"):
        await source.token()
    idp.answer("token", numbered)
    with pytest.raises(IssuerUnavailable, match="token_endpoint_busy"):
        await source.token()
    manual_time.advance(30)
    assert await source.token() == "token-6"


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(
    status: int, source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    idp.answer("token", Reply(b"", status, {"retry-after": "120"}))
    with pytest.raises(IssuerUnavailable) as caught:
        await source.token()
    assert caught.value.retry_after == 120.0
    idp.answer("token", numbered)
    manual_time.advance(119.999)
    for _ in range(10):
        with pytest.raises(IssuerUnavailable):
            await source.token()
    assert idp.request_count("token") == 1
    manual_time.advance(0.001)

    assert await source.token() == "token-2"


async def test_refusal_is_not_repeated_at_once(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime, numbered: Any
) -> None:
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    for _ in range(20):
        with pytest.raises(TokenRequestFailed, match="invalid_client"):
            await source.token()
    assert idp.request_count("token") == 1
    idp.answer("token", numbered)
    manual_time.advance(1.0)

    assert await source.token() == "token-2"


async def test_many_who_fail_at_once_make_one_request(source: TokenSource, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    idp.answer("token", Reply({"error": "invalid_client"}, 401))
    waiting = [asyncio.create_task(source.token()) for _ in range(100)]
    await until(lambda: idp.request_count("token") == 1)
    idp.release("token")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {str(outcome) for outcome in outcomes} == {"invalid_client"}
    assert idp.request_count("token") == 1


async def test_refused_token_is_replaced_at_once(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    source.invalidate("token-1")
    source.invalidate("")
    assert await source.token() == "token-1"
    source.invalidate("token-1")
    source.invalidate("token-1")
    assert await source.token() == "token-2"

    # Who comes late with the old one changes nothing.
    source.invalidate("token-1")
    assert await source.token() == "token-2"
    assert idp.request_count("token") == 2


async def test_fresh_tokens_that_are_all_refused_do_not_flood_the_endpoint(
    source: TokenSource, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    """As when the audience is wrong: each is as little use as the one before."""
    for _ in range(1_000):
        source.invalidate(await source.token())
    assert idp.request_count("token") == 2

    for asked, kept in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], start=2):
        assert await source.token() == f"token-{asked}"
        manual_time.advance(kept - 0.001)
        source.invalidate(f"token-{asked}")
        assert await source.token() == f"token-{asked}"
        manual_time.advance(0.001)
        source.invalidate(f"token-{asked}")
        assert await source.token() == f"token-{asked + 1}"

    # One that served for a while is replaced at once, as ever.
    manual_time.advance(60.0)
    source.invalidate("token-9")
    assert await source.token() == "token-10"
    manual_time.advance(1.0)
    source.invalidate("token-10")
    assert await source.token() == "token-11"


async def test_closing_ends_a_renewal_under_way(source: ClientCredentials, idp: LoopbackIssuer) -> None:
    idp.hold("token")
    waiting = asyncio.create_task(source.token())
    await until(lambda: idp.request_count("token") == 1)
    await source.aclose()

    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting
    idp.release("token")


async def test_failure_that_is_raised_again_has_no_old_traceback(
    source: TokenSource, idp: LoopbackIssuer
) -> None:
    """Frames would grow with each call, and hold what they have in hand."""
    idp.answer("token", Reply(b"", 503))
    depths = []
    for _ in range(5):
        with pytest.raises(IssuerUnavailable) as caught:
            await source.token()
        depths.append(len(caught.traceback))

    assert len(set(depths[1:])) == 1


def test_source_shows_neither_secret_nor_token(make_source: MakeSource) -> None:
    assert "secret" not in repr(make_source())
