"""Token exchange (RFC 8693) and private_key_jwt (RFC 7523): what is sent."""

from __future__ import annotations

from urllib.parse import parse_qsl

import httpx
import jwt
import pytest

from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    OAuthClient,
    PrivateKeyJwt,
    StaticToken,
    TokenExchange,
    TokenManager,
)
from gatehouse.client.token_exchange import ACCESS_TOKEN, JWT
from gatehouse.oauth import TokenRequestFailed
from gatehouse.settings import ConfigurationError
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, ManualTime, SigningKey

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
GOOD = Reply({"access_token": "exchanged", "token_type": "Bearer", "issued_token_type": ACCESS_TOKEN})


class Numbered:
    """A TokenSource whose tokens are numbered."""

    number = 1

    async def token(self) -> str:
        return f"subject-{self.number}"

    def invalidate(self, token: str) -> None:
        assert token == f"subject-{self.number}"
        self.number += 1


@pytest.fixture
def client(http: httpx.AsyncClient, idp: LoopbackIssuer) -> OAuthClient:
    idp.answer("token", GOOD)
    return OAuthClient(http, "service", ClientSecretBasic("secret"), issuer=idp.issuer)


async def test_exchange_names_subject_actor_and_scope(client: OAuthClient, idp: LoopbackIssuer) -> None:
    exchange = TokenExchange(
        client,
        StaticToken("subject"),
        "read:users",
        audience="users",
        resource="https://a.test https://b.test",
        actor=StaticToken("actor"),
        subject_token_type=JWT,
    )
    assert await TokenManager(exchange).token() == "exchanged"
    assert idp.last("token").basic == ("service", "secret")
    assert sorted(parse_qsl(idp.last("token").content.decode())) == [
        ("actor_token", "actor"),
        ("actor_token_type", ACCESS_TOKEN),
        ("audience", "users"),
        ("grant_type", GRANT_TYPE),
        ("requested_token_type", ACCESS_TOKEN),
        ("resource", "https://a.test"),
        ("resource", "https://b.test"),
        ("scope", "read:users"),
        ("subject_token", "subject"),
        ("subject_token_type", JWT),
    ]


@pytest.mark.parametrize(
    ("error", "used"),
    [("invalid_request", "subject-2"), ("invalid_grant", "subject-2"), ("access_denied", "subject-1")],
)
async def test_refused_subject_token_is_replaced(
    error: str, used: str, client: OAuthClient, idp: LoopbackIssuer
) -> None:
    exchange = TokenExchange(client, Numbered(), "read:users")
    idp.answer("token", Reply({"error": error}, 400))
    with pytest.raises(TokenRequestFailed, match=error):
        await exchange.request()
    idp.answer("token", GOOD)
    await exchange.request()
    assert idp.last("token").form["subject_token"] == used


# private_key_jwt


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_assertion_names_client_and_issuer_and_is_new_each_time(
    algorithm: str, http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    key = SigningKey.make("client-key", algorithm)
    auth = PrivateKeyJwt(key.pem, "client-key", algorithm, clock=manual_time.clock)
    grant = ClientCredentials(OAuthClient(http, "worker", auth, issuer=idp.issuer))
    ids = set()
    for _ in range(2):
        await grant.request()
        form = idp.last("token").form
        assertion = form.pop("client_assertion")
        assert form == {
            "grant_type": "client_credentials",
            "client_id": "worker",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        }
        assert "authorization" not in idp.last("token").headers
        assert jwt.get_unverified_header(assertion)["kid"] == "client-key"
        claims = jwt.decode(
            assertion,
            key.private.public_key(),
            [algorithm],
            audience=idp.issuer,
            options={"verify_exp": False, "verify_iat": False},
        )
        ids.add(claims.pop("jti"))
        iat = int(EPOCH)
        assert claims == {
            "iss": "worker",
            "sub": "worker",
            "aud": idp.issuer,
            "iat": iat,
            "exp": iat + 60,
        }
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["canary", "", SigningKey.make("other", "RS256").pem()], ids=range(3))
def test_unusable_key_is_an_error_without_its_content(key: str) -> None:
    auth = PrivateKeyJwt(key)
    with pytest.raises(ConfigurationError, match="key of client worker: not an unencrypted PEM") as caught:
        auth.credentials("worker", "https://id.test")
    assert "canary" not in str(caught.value) + repr(auth)
    assert "BEGIN" not in repr(auth)
