"""Token, introspection and revocation requests: what is sent, and what the responses mean."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.client import TokenResponse, introspect, request_token, revoke
from gatehouse.client.token_endpoint import MAX_RETRY_AFTER_SECONDS, _retry_after_seconds
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, ManualTime

FORM = {"grant_type": "client_credentials"}


def response(**changes: Any) -> dict[str, Any]:
    """A valid response of a token endpoint; a change to `...` removes a member."""
    body = {"access_token": "token-1", "token_type": "Bearer", "expires_in": 300.0} | changes
    return {name: value for name, value in body.items() if value is not ...}


async def test_request_and_response_follow_rfc_6749(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(response(scope="a b", refresh_token="r", id_token="i", other=1)))
    got = await request_token(http, idp.url("token"), {**FORM, "scope": "a b"}, ("worker", "s:%"))

    request = idp.last("token")
    assert (request.method, request.basic) == ("POST", ("worker", "s:%"))
    assert request.form == {"grant_type": "client_credentials", "scope": "a b"}
    assert (got.access_token, got.token_type, got.expires_in) == ("token-1", "Bearer", 300.0)
    assert (got.scope, got.refresh_token, got.id_token) == ("a b", "r", "i")


async def test_public_client_sends_its_id_in_the_form(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(response()))
    await request_token(http, idp.url("token"), {"grant_type": "password", "client_id": "console"})

    assert "authorization" not in idp.last("token").headers
    assert idp.last("token").form["client_id"] == "console"


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
async def test_token_type_ignores_case(kind: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply(response(token_type=kind)))

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
    idp.answer("token", Reply(response(expires_in=value)))

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
async def test_response_without_a_usable_token_is_malformed(
    changes: dict[str, Any], http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(response(**changes)))

    with pytest.raises(TokenRequestFailed, match=r"^malformed_response$"):
        await request_token(http, idp.url("token"), FORM)


@pytest.mark.parametrize(
    "changes", [{"scope": ["a"]}, {"refresh_token": 1}, {"id_token": None}, {"scope": None}], ids=str
)
async def test_optional_members_of_a_wrong_type_are_ignored(
    changes: dict[str, Any], http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(response(**changes)))
    got = await request_token(http, idp.url("token"), FORM)

    assert (got.scope, got.refresh_token, got.id_token) == ("", None, None)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", ["invalid_client", "invalid_scope", "slow_down", "use_dpop_nonce"])
async def test_refusal_has_the_error_code_of_the_response(
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
async def test_unknown_error_code_is_not_repeated(
    body: Any, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply(body, 400))

    with pytest.raises(TokenRequestFailed, match=r"^malformed_response$"):
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
async def test_retry_after_in_seconds_is_read(
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
async def test_retry_after_as_a_date_is_read(
    ahead: int, seconds: float, http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    date = format_datetime(datetime.fromtimestamp(EPOCH + ahead, UTC), usegmt=True)
    idp.answer("token", Reply(b"", 503, {"retry-after": date}))

    with pytest.raises(IssuerUnavailable) as caught:
        await request_token(http, idp.url("token"), FORM, clock=manual_time.clock)
    assert caught.value.retry_after == seconds


@given(st.text(alphabet=st.characters(), max_size=40))
def test_any_retry_after_is_bounded_or_ignored(value: str) -> None:
    seconds = _retry_after_seconds(value, lambda: EPOCH)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


async def test_token_endpoint_must_be_https(http: httpx.AsyncClient) -> None:
    with pytest.raises(IssuerUnavailable, match="url_not_https"):
        await request_token(http, "http://issuer.test/token", FORM, ("a", "b"))


def test_repr_of_a_response_contains_no_token() -> None:
    shown = repr(TokenResponse("canary-a", "Bearer", 60.0, "read:users", "canary-r", "canary-i"))

    assert "canary" not in shown
    assert "read:users" in shown


# Introspection and revocation.


async def test_introspection_returns_the_response(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
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
        (Reply(b"<html>"), "malformed_response"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_refused_introspection_is_an_error(
    reply: Reply, text: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("introspect", reply)

    with pytest.raises(TokenRequestFailed, match=f"^{text}$"):
        await introspect(http, idp.url("introspect"), "api", "secret", "opaque")


async def test_confidential_client_revokes_a_token(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    await revoke(http, idp.url("revoke"), "worker", "secret", "opaque")

    assert idp.last("revoke").basic == ("worker", "secret")
    assert idp.last("revoke").form == {"token": "opaque"}


async def test_public_client_revokes_a_token(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    await revoke(http, idp.url("revoke"), "console", None, "opaque")

    assert "authorization" not in idp.last("revoke").headers
    assert idp.last("revoke").form == {"token": "opaque", "client_id": "console"}


@pytest.mark.parametrize("status", [200, 400])
async def test_refused_revocation_is_an_error_whatever_its_status(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    """Keycloak answers 200 for an unknown token, with an error in the body."""
    idp.answer("revoke", Reply({"error": "invalid_token"}, status))

    with pytest.raises(TokenRequestFailed, match=r"^invalid_token$"):
        await revoke(http, idp.url("revoke"), "worker", "secret", "opaque")
