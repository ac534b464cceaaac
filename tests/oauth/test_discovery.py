"""Metadata of an issuer: where it is looked for, what is believed of it (Discovery 1.0, RFC 8414)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gatehouse.oauth import IssuerUnavailable, Metadata, discover
from gatehouse.oauth.discovery import oidc_url, rfc8414_url
from gatehouse.oauth.providers import okta
from tests.support.oauth_fixtures import reason_of
from tests.support.oauth_issuers import LoopbackIssuer, Reply, Request

OIDC = ".well-known/openid-configuration"
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


async def fault(http: httpx.AsyncClient, idp: LoopbackIssuer, **more: Any) -> str:
    with pytest.raises(IssuerUnavailable) as caught:
        await discover(http, idp.issuer, **more)
    return reason_of(caught)


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
def test_places_of_the_metadata(issuer: str, oidc: str, rfc8414: str) -> None:
    assert (oidc_url(issuer), rfc8414_url(issuer)) == (oidc, rfc8414)


async def test_metadata_is_read_from_the_place_of_openid_connect(
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
    assert [request.path for request in idp.requests] == [f"/realms/test/{OIDC}"]


@pytest.mark.parametrize("status", [404, 405, 400, 401, 403, 500, 503])
async def test_place_of_rfc_8414_is_next_where_the_first_has_nothing(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(b"", status))
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
async def test_first_place_that_answers_wrongly_is_the_end_of_it(
    reply: Reply, reason: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, reply)
    idp.answer(RFC8414, lambda _: Reply(idp.metadata()))

    assert await fault(http, idp) == reason
    assert idp.counts[RFC8414] == 0


async def test_issuer_without_metadata_is_an_outage(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer(OIDC, Reply(b"", 404))

    assert await fault(http, idp) == "discovery_failed"
    assert idp.counts[RFC8414] == 1


@pytest.mark.parametrize(
    "name",
    [
        lambda issuer: issuer + "/",
        lambda issuer: issuer.upper(),
        lambda issuer: issuer.replace("http:", "https:"),
        lambda issuer: issuer[:-1],
        lambda issuer: issuer + "?a=b",
        lambda issuer: issuer.replace("127.0.0.1", "localhost"),
        lambda issuer: [issuer],
        lambda issuer: None,
        lambda issuer: 1,
        lambda issuer: "",
    ],
)
@pytest.mark.parametrize("place", [OIDC, RFC8414])
async def test_issuer_of_the_metadata_must_match_to_the_letter(
    name: Any, place: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(b"", 404))
    idp.answer(place, Reply(idp.metadata() | {"issuer": name(idp.issuer)}))

    assert await fault(http, idp) == "discovery_issuer_mismatch"


async def test_metadata_without_an_issuer_is_nobodys(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    metadata = idp.metadata()
    del metadata["issuer"]
    idp.answer(OIDC, Reply(metadata))

    assert await fault(http, idp) == "discovery_issuer_mismatch"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "value",
    ["http://issuer.test/x", "file:///etc/passwd", "/relative", "", 1, [], {}, True, "https://a.test:99999/"],
    ids=str,
)
async def test_endpoint_that_must_not_be_asked_spoils_the_metadata(
    endpoint: str, value: Any, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(idp.metadata() | {endpoint: value}))

    assert await fault(http, idp) == "discovery_malformed"


async def test_endpoint_with_half_a_character_spoils_the_metadata(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(idp.metadata() | {"jwks_uri": "https://a.test/\ud800"}))

    assert await fault(http, idp) == "discovery_not_json"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_endpoint_may_be_missing(endpoint: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    metadata = {k: v for k, v in idp.metadata().items() if k != endpoint}
    idp.answer(OIDC, Reply(metadata | {"unknown": 1}))

    assert getattr(await discover(http, idp.issuer), endpoint) == ""


async def test_plain_http_endpoints_are_believed_where_http_is_allowed(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(idp.metadata() | {"jwks_uri": "http://keycloak:8080/certs"}))

    assert (await discover(http, idp.issuer, allow_http=True)).jwks_uri == "http://keycloak:8080/certs"


async def test_metadata_may_be_reached_elsewhere_than_below_the_issuer(
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
async def test_issuer_that_must_not_be_asked_is_not(issuer: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(IssuerUnavailable, match="url_"):
        await discover(http, issuer)


async def test_okta_keeps_the_metadata_of_rfc_8414_after_the_path(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer(OIDC, Reply(b"", 404))
    asked: list[Request] = []

    def answer(request: Request) -> Reply:
        asked.append(request)
        return Reply(idp.metadata())

    idp.answer(".well-known/oauth-authorization-server", answer)

    assert (await discover(http, idp.issuer, urls=okta.metadata_urls(idp.issuer))).issuer == idp.issuer
    assert len(asked) == 1
