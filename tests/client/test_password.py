"""The password grant, at the development issuer."""

from __future__ import annotations

import pytest

from gatehouse.client import OAuthClient, PasswordGrant
from gatehouse.oauth import TokenRequestFailed
from tests.support.issuer import LiveIssuer


async def test_user_gets_a_token_by_password_with_a_warning(issuer: LiveIssuer) -> None:
    client = OAuthClient(issuer.http, "gatehouse-console", issuer=issuer.issuer)
    with pytest.warns(UserWarning, match="the password grant is legacy") as warned:
        grant = PasswordGrant(client, "alice", lambda: "alice", scope="read:users")
    assert warned[0].filename == __file__
    response = await grant.request()
    assert (await issuer.introspect(response.access_token))["username"] == "alice"
    assert "lambda" not in repr(grant)


async def test_wrong_password_is_refused_without_showing_it(issuer: LiveIssuer) -> None:
    client = OAuthClient(issuer.http, "gatehouse-console", issuer=issuer.issuer)
    with pytest.warns(UserWarning, match="legacy"):
        grant = PasswordGrant(client, "alice", "canary")
    with pytest.raises(TokenRequestFailed, match=r"^invalid_grant$") as caught:
        await grant.request()
    assert "canary" not in repr(grant) + repr(caught.value) + caught.value.detail
