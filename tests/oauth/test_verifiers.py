"""Verification of tokens from end to end, against an issuer over HTTP."""

from __future__ import annotations

import pytest

from tests.oauth.conftest import MakeVerifiers, config
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer


@pytest.mark.parametrize("mode", ["jwt", "introspection", "hybrid"])
async def test_good_token_becomes_a_principal_in_every_mode(
    mode: str, idp: LoopbackIssuer, make_verifiers: MakeVerifiers
) -> None:
    verifiers = await make_verifiers(config(idp, mode))

    principal = await verifiers.verify(idp.grant(auth_time=int(EPOCH) - 5))

    assert principal.issuer == idp.issuer
    assert principal.subject == "00000000-0000-4000-8000-0000000a11ce"
    assert principal.client_id == "gatehouse-console"
    assert principal.scopes == {"read:users"}
    assert principal.roles == {"user"}
    assert principal.expires_at == EPOCH + 300
    assert (principal.acr, principal.auth_time) == ("1", int(EPOCH) - 5)
    assert principal.claims["sub"] == principal.subject
