"""Discovery of the metadata of an issuer (OpenID Connect Discovery 1.0, RFC 8414)."""

from __future__ import annotations

import ssl

import httpx
import pytest

from gatehouse.oauth import IssuerUnavailable, Metadata, discover
from gatehouse.oauth.discovery import oidc_url, rfc8414_url
from tests.support.certificates import Authority
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, loopback_issuer

RFC8414 = "/.well-known/oauth-authorization-server/realms/test"
ENDPOINTS = (
    "jwks_uri",
    "authorization_endpoint",
    "token_endpoint",
    "introspection_endpoint",
    "revocation_endpoint",
    "device_authorization_endpoint",
    "userinfo_endpoint",
    "end_session_endpoint",
)


async def failure(http: httpx.AsyncClient, idp: LoopbackIssuer) -> str:
    """Return the reason for which discovery fails."""
    with pytest.raises(IssuerUnavailable) as caught:
        await discover(http, idp.issuer)
    return caught.value.reason


@pytest.mark.parametrize(
    ("issuer", "oidc", "rfc8414"),
    [
        (
            "https://a.test",
            "https://a.test/.well-known/openid-configuration",
            "https://a.test/.well-known/oauth-authorization-server",
        ),
        (
            "https://a.test/",
            "https://a.test/.well-known/openid-configuration",
            "https://a.test/.well-known/oauth-authorization-server",
        ),
        (
            "https://a.test:8443/realms/r",
            "https://a.test:8443/realms/r/.well-known/openid-configuration",
            "https://a.test:8443/.well-known/oauth-authorization-server/realms/r",
        ),
        (
            "https://a.test/oauth2/default/",
            "https://a.test/oauth2/default/.well-known/openid-configuration",
            "https://a.test/.well-known/oauth-authorization-server/oauth2/default",
        ),
    ],
)
def test_metadata_urls(issuer: str, oidc: str, rfc8414: str) -> None:
    assert (oidc_url(issuer), rfc8414_url(issuer)) == (oidc, rfc8414)


async def test_metadata_is_read_from_the_openid_connect_url(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    assert await discover(http, idp.issuer) == Metadata(
        issuer=idp.issuer,
        jwks_uri=idp.url("jwks"),
        authorization_endpoint=idp.url("auth"),
        token_endpoint=idp.url("token"),
        introspection_endpoint=idp.url("introspect"),
        revocation_endpoint=idp.url("revoke"),
    )
    assert [request.path for request in idp.requests] == [f"/realms/test/{METADATA}"]


@pytest.mark.parametrize(("value", "sent"), [(True, True), (False, False), ("true", False), (None, False)])
async def test_metadata_says_whether_authorization_responses_contain_the_issuer(
    value: object, sent: bool, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, Reply(idp.metadata() | {"authorization_response_iss_parameter_supported": value}))

    assert (await discover(http, idp.issuer)).iss_in_response is sent


@pytest.mark.parametrize(
    ("issuer", "shown"),
    [
        ("https://id.test/realms/r", "https://id.test/realms/r"),
        ("http://keycloak:8080/realms/r", "http://keycloak:8080/realms/r"),
        ("canary\n", "(no URL)"),
        (["https://id.test"], "(no URL)"),
        (None, "(no URL)"),
    ],
)
async def test_metadata_of_another_issuer_is_refused_with_the_url_of_both(
    issuer: object, shown: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, Reply(idp.metadata() | {"issuer": issuer}))

    with pytest.raises(IssuerUnavailable, match="discovery_issuer_mismatch") as caught:
        await discover(http, idp.issuer)
    assert caught.value.detail == f"expected {idp.issuer}, found {shown}"


@pytest.mark.parametrize("status", [404, 405, 400, 401, 403, 500, 503])
async def test_rfc_8414_url_is_tried_after_an_http_error(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, Reply(b"", status))
    idp.answer(RFC8414, lambda _: Reply(idp.metadata()))

    assert (await discover(http, idp.issuer)).jwks_uri == idp.url("jwks")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(b"", 302, {"location": "/elsewhere"}), "discovery_redirected"),
        (Reply(b"<html>", headers={"content-type": "text/html"}), "discovery_not_json"),
        (Reply(b"x" * 70_000), "discovery_body_too_large"),
        (Reply(hang_up=True), "discovery_unreachable"),
    ],
    ids=str,
)
async def test_malformed_response_ends_discovery(
    reply: Reply, reason: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, reply)
    idp.answer(RFC8414, lambda _: Reply(idp.metadata()))

    assert await failure(http, idp) == reason
    assert idp.request_count(RFC8414) == 0


async def test_issuer_without_metadata_is_unavailable(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer(METADATA, Reply(b"", 404))

    with pytest.raises(IssuerUnavailable) as caught:
        await discover(http, idp.issuer)
    assert (caught.value.reason, METADATA in caught.value.detail) == ("discovery_failed", True)
    assert idp.request_count(RFC8414) == 1


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_metadata_with_an_unsafe_endpoint_is_refused(
    endpoint: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, Reply(idp.metadata() | {endpoint: "http://issuer.test/x"}))

    assert await failure(http, idp) == "discovery_malformed"


@pytest.mark.parametrize("endpoint", ["jwks_uri", "introspection_endpoint", "token_endpoint"])
async def test_https_issuer_cannot_name_a_plaintext_endpoint_on_loopback(
    endpoint: str, authority: Authority
) -> None:
    trusted = ssl.create_default_context(cafile=str(authority.ca_file))
    async with (
        loopback_issuer(tls=authority.server_context()) as idp,
        httpx.AsyncClient(trust_env=False, verify=trusted) as http,
    ):
        assert getattr(await discover(http, idp.issuer), endpoint).startswith("https:")
        idp.answer(METADATA, Reply(idp.metadata() | {endpoint: "http://127.0.0.1:6379/"}))

        assert await failure(http, idp) == "discovery_malformed"
        assert await discover(http, idp.issuer, allow_http=True)


async def test_issuer_on_loopback_can_be_reached_over_https_elsewhere(authority: Authority) -> None:
    """As in docker-compose.yml: only the URLs for browsers are plain http."""
    trusted = ssl.create_default_context(cafile=str(authority.ca_file))
    async with (
        loopback_issuer(tls=authority.server_context()) as idp,
        httpx.AsyncClient(trust_env=False, verify=trusted) as http,
    ):
        browser = {"issuer": "http://localhost:8080", "revocation_endpoint": "http://localhost:8080/revoke"}
        idp.answer(METADATA, Reply(idp.metadata() | browser))

        found = await discover(http, browser["issuer"], idp.url(METADATA))
        assert found.jwks_uri.startswith("https:")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_endpoint_is_optional(endpoint: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    metadata = {k: v for k, v in idp.metadata().items() if k != endpoint}
    idp.answer(METADATA, Reply(metadata | {"unknown": 1}))

    assert getattr(await discover(http, idp.issuer), endpoint) == ""


async def test_plain_http_endpoint_needs_allow_http(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer(METADATA, Reply(idp.metadata() | {"jwks_uri": "http://keycloak:8080/certs"}))

    assert (await discover(http, idp.issuer, allow_http=True)).jwks_uri == "http://keycloak:8080/certs"


async def test_metadata_can_be_read_from_a_url_outside_the_issuer(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    outside = "https://id.test/realms/r"
    idp.answer("metadata", Reply({"issuer": outside, "jwks_uri": idp.url("jwks")}))

    found = await discover(http, outside, idp.url("metadata"))

    assert (found.issuer, found.jwks_uri) == (outside, idp.url("jwks"))
    with pytest.raises(IssuerUnavailable, match="discovery_issuer_mismatch"):
        await discover(http, idp.issuer, idp.url("metadata"))
    assert {request.path for request in idp.requests} == {"/realms/test/metadata"}


@pytest.mark.parametrize("issuer", ["http://issuer.test", "not a url", "", "file:///etc"])
async def test_no_request_is_sent_to_an_unsafe_issuer_url(issuer: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(IssuerUnavailable, match="url_"):
        await discover(http, issuer)


async def test_client_with_a_certificate_gets_the_endpoints_for_it(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    aliases = {name: f"https://mtls.test/{name}" for name in ENDPOINTS}
    idp.answer(METADATA, Reply(idp.metadata() | {"mtls_endpoint_aliases": aliases}))
    found = await discover(http, idp.issuer)
    assert found.token_endpoint == idp.url("token")
    with_certificate = found.for_mutual_tls()
    # A client sends no requests to the others itself (RFC 8705 section 5).
    direct = {name for name in ENDPOINTS if getattr(with_certificate, name) == aliases[name]}
    assert direct == set(ENDPOINTS) - {"jwks_uri", "authorization_endpoint", "end_session_endpoint"}
    assert with_certificate.authorization_endpoint == idp.url("auth")


@pytest.mark.parametrize("alias", ["http://mtls.test/token", "not a url", 1])
async def test_malformed_alias_is_not_used_and_does_no_harm(
    alias: object, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    for aliases in ({"token_endpoint": alias}, alias):
        idp.answer(METADATA, Reply(idp.metadata() | {"mtls_endpoint_aliases": aliases}))
        found = await discover(http, idp.issuer)
        assert found.for_mutual_tls() == found
        assert found.token_endpoint == idp.url("token")


async def test_alias_follows_the_rules_of_endpoints(
    http: httpx.AsyncClient, idp: LoopbackIssuer, authority: Authority
) -> None:
    aliases = {"token_endpoint": "http://mtls.test/token"}
    idp.answer(METADATA, Reply(idp.metadata() | {"mtls_endpoint_aliases": aliases}))
    found = await discover(http, idp.issuer, allow_http=True)
    assert found.for_mutual_tls().token_endpoint == aliases["token_endpoint"]
    async with loopback_issuer(tls=authority.server_context()) as safe:
        aliases = {"token_endpoint": "http://127.0.0.1/token"}
        safe.answer(METADATA, Reply(safe.metadata() | {"mtls_endpoint_aliases": aliases}))
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        async with httpx.AsyncClient(verify=context, trust_env=False) as trusting:
            found = await discover(trusting, safe.issuer)
        assert found.for_mutual_tls() == found
