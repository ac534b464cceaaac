"""Registrations of clients: how each authenticates, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import ValidationError

from gatehouse.client import ClientCredentials
from gatehouse.client.registration import Registration, open_client
from gatehouse.settings import ConfigurationError
from tests.support.certificates import Authority
from tests.support.oauth_issuers import LoopbackIssuer

CLIENT = "worker"


async def form_of(idp: LoopbackIssuer, secret: str = "", **options: Any) -> dict[str, str]:
    """Request a token, and return the form that the issuer gets."""
    registration = Registration(issuer=idp.issuer, client_id=CLIENT, **options)
    async with open_client(registration, secret=secret) as client:
        await ClientCredentials(client).request()
    form = idp.last("token").form
    assert form.pop("grant_type") == "client_credentials"
    return form


async def test_secret_is_sent_as_the_registration_says(idp: LoopbackIssuer, tmp_path: Path) -> None:
    assert await form_of(idp) == {"client_id": CLIENT}
    assert await form_of(idp, "secret", auth="client_secret_basic") == {}
    assert idp.last("token").basic == (CLIENT, "secret")
    (tmp_path / "secret").write_text("from a file\n")
    form = await form_of(idp, auth="client_secret_post", client_secret_file=tmp_path / "secret")
    assert form == {"client_id": CLIENT, "client_secret": "from a file"}


async def test_private_key_signs_an_assertion(idp: LoopbackIssuer, authority: Authority) -> None:
    _, key = authority.write(*authority.issue())
    form = await form_of(idp, auth="private_key_jwt", private_key_file=key, key_id="key-1")
    assert jwt.get_unverified_header(form["client_assertion"])["kid"] == "key-1"


async def test_certificate_needs_its_key(idp: LoopbackIssuer, authority: Authority) -> None:
    certificate, key = authority.write(*authority.issue())
    with pytest.raises(ConfigurationError, match="name the private key file"):
        await form_of(idp, auth="tls_client_auth", certificate_file=certificate)
    form = await form_of(idp, auth="tls_client_auth", certificate_file=certificate, private_key_file=key)
    assert form == {"client_id": CLIENT}


@pytest.mark.parametrize(
    "values", [{}, {"issuer": "https://id.test"}, {"issuer": "https://id.test", "client_id": ""}]
)
def test_registration_needs_an_issuer_and_a_client(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Registration.model_validate(values)
