"""Revocation: RFC 7009."""

import pytest

from tests.issuers.idp import CONSOLE, Idp, granted, refusal


async def test_revoked_access_token_is_inactive_and_its_refresh_token_works(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    answer = await idp.ask("revoke", tokens["access_token"], CONSOLE)
    assert (answer.status_code, answer.content) == (200, b"")
    assert await idp.introspect(tokens["access_token"]) == {"active": False}
    again = granted(await idp.refresh(tokens["refresh_token"]))
    assert await idp.is_active(again["access_token"])


async def test_service_account_can_revoke_its_token(idp: Idp) -> None:
    token, other = await idp.service_token(), await idp.service_token()
    assert (await idp.ask("revoke", token, "gatehouse-worker")).status_code == 200
    assert not await idp.is_active(token)
    assert await idp.is_active(other)


async def test_revoking_a_refresh_token_ends_its_session(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    answer = await idp.ask("revoke", tokens["refresh_token"], CONSOLE, token_type_hint="refresh_token")
    assert answer.status_code == 200
    assert not await idp.is_active(tokens["access_token"])
    assert refusal(await idp.refresh(tokens["refresh_token"])) == (400, "invalid_grant")


async def test_revoking_a_token_twice_changes_nothing(idp: Idp) -> None:
    token = await idp.service_token()
    await idp.ask("revoke", token, "gatehouse-worker")
    assert (await idp.ask("revoke", token, "gatehouse-worker")).status_code == 200
    assert not await idp.is_active(token)


async def test_revoking_garbage_succeeds_with_an_error_code(idp: Idp) -> None:
    answer = await idp.ask("revoke", "garbage", CONSOLE)
    assert refusal(answer) == (200, "invalid_token")


async def test_token_of_another_client_cannot_be_revoked(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    for token in (tokens["access_token"], tokens["refresh_token"]):
        answer = await idp.ask("revoke", token, "gatehouse-worker")
        assert answer.status_code == 400
    assert await idp.is_active(tokens["access_token"])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"client_id": CONSOLE}, (400, "invalid_request")),
        ({"client_id": "nobody", "token": "x"}, (401, "invalid_client")),
        ({"client_id": "gatehouse-worker", "client_secret": "x", "token": "x"}, (401, "unauthorized_client")),
    ],
)
async def test_invalid_request_is_refused(idp: Idp, form: dict[str, str], expected: tuple[int, str]) -> None:
    assert refusal(await idp.http.post(idp.url("revoke"), data=form)) == expected
