"""The page of the access token."""

from __future__ import annotations

import html
import re

import httpx
import pytest

from gatehouse_console.claims import explain_claims
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser, hidden_fields
from tests.console.conftest import ORIGIN, sign_in_at
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer


def claims(page: httpx.Response) -> dict[str, str]:
    """Return the text of the value of each claim."""
    rows = re.findall(r'<th scope="row"><code>([^<]+)</code></th>\s*<td>(.*?)</td>', page.text, re.DOTALL)
    return {name: " ".join(html.unescape(re.sub(r"<[^>]+>", "", value)).split()) for name, value in rows}


async def test_claims_are_explained_with_their_source(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/token")
    found = claims(page)
    assert "read:users" in found["scope"]
    assert re.fullmatch(r"\d+: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", found["exp"])
    for part in ("RFC 7519 section 4.1.3", "Keycloak", "roles of the user in the realm", "ES256"):
        assert part in page.text
    remaining = re.search(r'data-countdown="(\d+)"', page.text)
    assert remaining is not None
    assert 0 < int(remaining[1]) <= 300
    assert "The issuer says that the token is valid now" in page.text


async def test_revoked_token_is_not_active_until_it_is_refreshed(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/token")
    first = claims(page)["jti"]
    page = await on_system.submit(page, "/token/revoke")
    assert "the token is revoked or expired" in page.text
    assert claims(page)["jti"] == first
    assert claims(page)["active"].startswith("false")
    for _ in range(2):  # also twice in a row
        page = await on_system.submit(page, "/token/refresh")
        assert "The issuer says that the token is valid now" in page.text
        assert claims(page)["jti"] != first
        first = claims(page)["jti"]


async def test_log_in_again_asks_for_the_password_although_the_issuer_remembers_the_user(
    on_system: Browser,
) -> None:
    page = await on_system.sign_in("bob", return_to="/token")
    query = httpx.QueryParams(hidden_fields(page, "/sign-in") | {"acr_values": ""})
    assert "Password" in (await on_system.get(f"/sign-in?{query}")).text
    assert "acr_values" not in str(on_system.seen[-1].request.url)
    await on_system.get(f"/sign-in?{query.set('acr_values', '1 mfa')}")
    assert on_system.seen[-1].request.url.params["acr_values"] == "1 mfa"


async def test_issuer_that_is_down_keeps_the_token_and_the_page(
    on_system: Browser, gatehouse: Testbed
) -> None:
    page = await on_system.sign_in("bob", return_to="/token")
    token_id = claims(page)["jti"]
    gatehouse.faults.add("issuer/*", status=503)
    refused = await on_system.submit(page, "/token/refresh")
    assert (refused.status_code, "The issuer does not respond" in refused.text) == (503, True)
    refused = await on_system.submit(page, "/token/revoke")
    assert (refused.status_code, "The issuer does not respond" in refused.text) == (503, True)
    again = await on_system.get("/token")
    assert "Not introspected: the issuer does not respond" in again.text
    assert claims(again)["jti"] == token_id
    gatehouse.faults.reset()
    assert claims(await on_system.submit(page, "/token/refresh"))["jti"] != token_id


async def test_opaque_token_is_shown_without_claims(at_idp: Browser, idp: LoopbackIssuer) -> None:
    await sign_in_at(idp, at_idp)
    page = await at_idp.get("/token")
    assert page.status_code == 200
    assert "The token is opaque" in page.text
    assert "Not introspected: the profile has no secret of a client" in page.text


async def test_html_in_the_claims_of_a_token_is_text(at_idp: Browser, idp: LoopbackIssuer) -> None:
    hostile = {"<b>": "<script>alert(1)</script>", "exp": 1e400, "iat": 1e18, "list": ["</td>"]}
    await sign_in_at(idp, at_idp)
    idp.answer(
        "token", Reply({"access_token": idp.sign(**hostile), "token_type": "Bearer", "expires_in": 300})
    )
    page = await at_idp.submit(await at_idp.get("/token"), "/token/refresh")
    assert (page.status_code, str(page.url)) == (200, f"{ORIGIN}/token")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "<script>alert" not in page.text
    assert "<b>" not in page.text


@pytest.mark.parametrize(
    ("claimed", "introspected", "now"),
    [
        ("a b", "b a", ""),
        ("a b", "a", "a"),
        ("x", ["x"], ""),
        (["x", "y"], ["y", "x"], ""),
        ({"roles": ["user"]}, {"roles": ["user", "admin"]}, '{"roles": ["user", "admin"]}'),
    ],
)
def test_difference_to_what_the_issuer_says_now_is_found(
    claimed: object, introspected: object, now: str
) -> None:
    (claim,) = explain_claims({"c": claimed}, {"c": introspected})
    assert claim.now == now
