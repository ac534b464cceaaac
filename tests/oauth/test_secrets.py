"""No token, client secret or claim value appears in errors, logs or spans."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    OAuthClient,
    TokenManager,
    introspect,
    revoke,
)
from gatehouse.oauth import OAuthError, TracedTransport
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, config, tls_context
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, SigningKey
from tests.support.telemetry import Spans

CANARY = "canary"
SECRET = "canarysecret"  # looks the same when form-urlencoded
CLAIMS = {
    "email": "canary-email",
    "sub": "canary-subject",
    "scope": "canary-scope",
    "azp": "canary-client",
    "acr": "canary-acr",
    "realm_access": {"roles": ["canary-role"]},
}


def text_of(error: BaseException) -> str:
    """Return the text, repr and attributes of an error and of its causes, and its formatted exception."""
    parts = []
    seen: BaseException | None = error
    while seen is not None:
        parts += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__
    return "\n".join([*parts, *traceback.format_exception_only(error)])


MakeToken = Callable[[LoopbackIssuer], str]


def forged(idp: LoopbackIssuer) -> str:
    return SigningKey.make(idp.keys[0].kid).sign(idp.claims(**CLAIMS))


def introspected_with(reply: Any, **changes: Any) -> MakeToken:
    """Return a maker of a signed token whose introspection is answered with `reply`."""

    def make(idp: LoopbackIssuer) -> str:
        idp.answer("introspect", reply)
        return idp.sign(**(CLAIMS | changes))

    return make


def with_claims(**changes: Any) -> MakeToken:
    """Return a maker of a token with `changes` in its claims."""
    return lambda idp: idp.grant(**(CLAIMS | changes))


INVALID: dict[str, MakeToken] = {
    "opaque": lambda idp: "canary-opaque",
    "too long": lambda idp: "canary" * 2000,
    "not ascii": lambda idp: "canary-é",
    "malformed": lambda idp: "canary.canary.canary.canary",
    "half a token": lambda idp: idp.sign(**CLAIMS).rpartition(".")[0],
    "forged": forged,
    "unknown issuer": with_claims(iss="https://canary.test"),
    "unknown key": lambda idp: SigningKey.make("canary-kid").sign(idp.claims(**CLAIMS)),
    "algorithm": lambda idp: idp.keys[0].sign(idp.claims(**CLAIMS), {"alg": "canary", "kid": "key-1"}),
    "type": lambda idp: idp.keys[0].sign(
        idp.claims(**CLAIMS), {"alg": "ES256", "kid": "key-1", "typ": "canary"}
    ),
    "audience": with_claims(aud="canary-audience"),
    "expired": with_claims(exp=EPOCH - 1000),
    "expiry": with_claims(exp="canary-expiry"),
    "not yet": with_claims(nbf=EPOCH + 1000),
    "proof": with_claims(cnf={"jkt": "canary"}),
    "subject": with_claims(sub="canary\0"),
    "payload type": with_claims(typ="canary-type"),
    "inactive": lambda idp: idp.sign(**CLAIMS),
    "introspection refused": introspected_with(Reply({"error": "canary"}, 401)),
    "introspection failed": introspected_with(Reply({"error_description": "canary"}, 500)),
    "introspection malformed": introspected_with(Reply(b"canary")),
    "introspection redirected": introspected_with(
        Reply(b"", 302, {"location": "https://canary.test/?canary"})
    ),
    "introspection unreachable": introspected_with(Reply(raw=b"canary\r\n\r\n")),
    "introspection hung up": introspected_with(Reply(hang_up=True)),
    "other subject": introspected_with(
        lambda _: Reply({"active": True, "aud": "gatehouse-api", "exp": EPOCH + 9, "typ": "Bearer"} | CLAIMS),
        sub="canary-other",
    ),
}


@pytest.mark.parametrize("make_token", INVALID.values(), ids=INVALID.keys())
async def test_failed_verification_leaks_no_secret(
    make_token: MakeToken,
    idp: LoopbackIssuer,
    make_verifier: MakeVerifier,
    spans: Spans,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)  # at DEBUG, httpcore logs the responses
    inner = httpx.AsyncHTTPTransport(trust_env=False, verify=tls_context())
    async with httpx.AsyncClient(transport=TracedTransport(spans.tracer, inner), trust_env=False) as http:
        verifier = await make_verifier(
            config(idp, "hybrid", client_secret=SECRET), http=http, tracer=spans.tracer
        )
        token = make_token(idp)
        output = [repr(verifier)]
        for online in (False, True):
            with pytest.raises(OAuthError) as caught:
                await verifier.verify(token, online=online)
            output.append(text_of(caught.value))
    assert spans.finished()
    text = "\n".join([*output, spans.as_text(), caplog.text])
    assert CANARY not in text
    assert not any(part in text for part in token.split(".") if len(part) > 20)


async def test_successful_verification_leaks_no_secret(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    verifier = await make_verifier(config(idp, "hybrid"))
    token = idp.grant(**CLAIMS)
    principal = await verifier.verify(token)

    assert caplog.text  # the HTTP libraries do log
    assert not any(part in caplog.text for part in token.split("."))
    assert CANARY not in caplog.text
    assert "canary-email" not in repr(principal)


ClientRequest = Callable[[httpx.AsyncClient, LoopbackIssuer], Awaitable[object]]


async def client_credentials(http: httpx.AsyncClient, idp: LoopbackIssuer) -> object:
    client = OAuthClient(http, "worker", ClientSecretBasic(SECRET), token_endpoint=idp.url("token"))
    source = TokenManager(ClientCredentials(client))
    assert CANARY not in repr(source)
    try:
        return await source.token()
    finally:
        await source.aclose()


CLIENT_REQUESTS: dict[str, ClientRequest] = {
    "token": client_credentials,
    "introspect": lambda http, idp: introspect(http, idp.url("introspect"), "worker", SECRET, "canary-token"),
    "revoke": lambda http, idp: revoke(http, idp.url("revoke"), "worker", SECRET, "canary-token"),
}


@pytest.mark.parametrize("endpoint", CLIENT_REQUESTS)
@pytest.mark.parametrize(
    "reply",
    [
        Reply({"error": "canary-error", "error_description": "canary"}, 400),
        Reply({"error": "invalid_client", "error_description": "canary"}, 401),
        Reply({"error": "canary"}, 503, {"retry-after": "canary"}),
        Reply(b"", 302, {"location": "https://canary.test"}),
        Reply(raw=b"canary\r\n\r\n"),
        Reply(b"{canary", 400),
    ],
    ids=range(6),
)
async def test_failed_client_request_leaks_no_secret(
    endpoint: str,
    reply: Reply,
    http: httpx.AsyncClient,
    idp: LoopbackIssuer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gatehouse")
    idp.answer(endpoint, reply)
    with pytest.raises(OAuthError) as caught:
        await CLIENT_REQUESTS[endpoint](http, idp)

    assert CANARY not in text_of(caught.value) + caplog.text


async def test_malformed_access_token_does_not_appear_in_the_error(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply({"access_token": "canary\ntoken", "token_type": "Bearer"}))
    with pytest.raises(OAuthError) as caught:
        await client_credentials(http, idp)

    assert CANARY not in text_of(caught.value)
