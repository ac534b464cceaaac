"""Refresh tokens: RFC 6749 section 6, with rotation and reuse detection (RFC 9700 section 4.14)."""

import pytest

from tests.issuers.idp import Browser, Idp, claims_of, granted, refusal


async def test_refresh_rotates_the_token_and_keeps_the_session(idp: Idp) -> None:
    first = await idp.user_tokens()
    second = granted(await idp.refresh(first["refresh_token"]))
    assert second.keys() == first.keys()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["scope"] == first["scope"]
    old, new = claims_of(first["access_token"]), claims_of(second["access_token"])
    assert (new["sub"], new["sid"]) == (old["sub"], old["sid"])
    assert new["jti"] != old["jti"]
    assert await idp.is_active(first["access_token"])
    assert await idp.is_active(second["access_token"])


async def test_refresh_keeps_auth_time(browser: Browser, idp: Idp) -> None:
    first = await browser.tokens()
    second = granted(await idp.refresh(first["refresh_token"]))
    assert claims_of(second["access_token"])["auth_time"] == claims_of(first["access_token"])["auth_time"]
    assert claims_of(second["id_token"])["sub"] == claims_of(first["id_token"])["sub"]


async def test_second_use_of_a_refresh_token_ends_the_session(idp: Idp) -> None:
    first = await idp.user_tokens()
    second = granted(await idp.refresh(first["refresh_token"]))
    assert refusal(await idp.refresh(first["refresh_token"])) == (400, "invalid_grant")
    assert refusal(await idp.refresh(second["refresh_token"])) == (400, "invalid_grant")
    assert not await idp.is_active(second["access_token"])


async def test_refresh_can_narrow_the_scope(idp: Idp) -> None:
    first = await idp.user_tokens(scope="read:users write:users")
    second = granted(await idp.refresh(first["refresh_token"], scope="read:users"))
    assert second["scope"] == "read:users"


async def test_narrowed_scope_can_be_widened_to_what_was_granted(idp: Idp) -> None:
    first = await idp.user_tokens(scope="read:users write:users")
    second = granted(await idp.refresh(first["refresh_token"], scope="read:users"))
    third = granted(await idp.refresh(second["refresh_token"]))
    assert set(third["scope"].split()) == {"read:users", "write:users"}


async def test_refresh_cannot_widen_the_scope(idp: Idp) -> None:
    first = await idp.user_tokens(scope="read:users")
    second = granted(await idp.refresh(first["refresh_token"], scope="read:users write:users"))
    assert second["scope"] == "read:users"


@pytest.mark.parametrize("scope", ["nothing", ""])
async def test_refresh_with_an_unknown_scope_is_refused(idp: Idp, scope: str) -> None:
    first = await idp.user_tokens(scope="read:users")
    assert refusal(await idp.refresh(first["refresh_token"], scope=scope)) == (400, "invalid_scope")


async def test_access_token_cannot_be_used_to_refresh(idp: Idp) -> None:
    assert refusal(await idp.refresh(await idp.user_token())) == (400, "invalid_grant")


async def test_refresh_token_requires_its_client(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    answer = await idp.refresh(
        tokens["refresh_token"], "gatehouse-worker", client_secret="worker-demo-secret"
    )
    assert refusal(answer) == (400, "invalid_grant")
