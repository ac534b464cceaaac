"""Mutual TLS of a client at the token endpoint (RFC 8705), against a server that requires certificates."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatehouse.client import ClientCredentials, OAuthClient, TlsClientAuth
from gatehouse.oauth import ClientCertificate, IssuerUnavailable, open_http
from gatehouse.settings import ConfigurationError
from tests.support.certificates import Authority
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, loopback_issuer

CLIENT = "worker"


@pytest.fixture
async def strict(authority: Authority) -> AsyncIterator[LoopbackIssuer]:
    """An issuer that requires certificates of the authority."""
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)
    async with loopback_issuer(tls=context) as issuer:
        yield issuer


def write_client_certificate(authority: Authority, **options: Any) -> ClientCertificate:
    """Write a certificate of the client, and return its files."""
    files = ClientCertificate(authority.folder / "client.pem", authority.folder / "client.key")
    for file, content in zip(files, authority.issue(CLIENT, for_client=True, **options), strict=True):
        file.write_bytes(content)
    return files


def worker(http: httpx.AsyncClient, issuer: str) -> ClientCredentials:
    return ClientCredentials(OAuthClient(http, CLIENT, TlsClientAuth(), issuer=issuer))


async def test_certificate_authenticates_the_client(authority: Authority, strict: LoopbackIssuer) -> None:
    files = write_client_certificate(authority)
    async with open_http(authority.ca_file, certificate=files) as http:
        response = await worker(http, strict.issuer).request()
    assert response.access_token
    request = strict.last("token")
    assert request.form == {"grant_type": "client_credentials", "client_id": CLIENT}
    assert "authorization" not in request.headers
    async with open_http(authority.ca_file) as http:
        with pytest.raises(IssuerUnavailable, match="unreachable"):
            await worker(http, strict.issuer).request()


async def test_endpoints_for_certificates_are_used(
    authority: Authority, strict: LoopbackIssuer, idp: LoopbackIssuer
) -> None:
    aliases = {"token_endpoint": strict.url("token"), "introspection_endpoint": strict.url("introspect")}
    idp.answer(METADATA, Reply(idp.metadata() | {"mtls_endpoint_aliases": aliases}))
    async with open_http(authority.ca_file, certificate=write_client_certificate(authority)) as http:
        await worker(http, idp.issuer).request()
        assert (strict.request_count("token"), idp.request_count("token")) == (1, 0)
        await ClientCredentials(OAuthClient(http, CLIENT, issuer=idp.issuer)).request()
        assert (strict.request_count("token"), idp.request_count("token")) == (1, 1)


async def test_renewed_certificate_is_used_without_a_restart(
    authority: Authority, strict: LoopbackIssuer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "another authority")
    files = write_client_certificate(other)
    async with open_http(authority.ca_file, certificate=files, reload_seconds=0) as http:
        with pytest.raises(IssuerUnavailable):
            await worker(http, strict.issuer).request()
        for file, content in zip(files, authority.issue(CLIENT, for_client=True), strict=True):
            file.write_bytes(content)
        assert (await worker(http, strict.issuer).request()).access_token


@pytest.mark.parametrize("change", ["missing", "encrypted", "garbage"])
def test_unusable_certificate_is_named(change: str, authority: Authority) -> None:
    """An encrypted key must not make OpenSSL ask in the terminal."""
    files = write_client_certificate(authority, passphrase=b"secret" if change == "encrypted" else None)
    if change == "missing":
        files.private_key_file.unlink()
    if change == "garbage":
        files.certificate_file.write_text("canary")
    with pytest.raises(
        ConfigurationError, match=r"client\.key: not usable as a client certificate"
    ) as caught:
        open_http(authority.ca_file, certificate=files)
    assert "canary" not in str(caught.value)
