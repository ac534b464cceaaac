"""Canary secrets: no token, client secret or claim value is found in what an error, a log or a span says."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from gatehouse.client import ClientCredentials, introspect, revoke
from gatehouse.oauth import IssuerConfig, OAuthError, TracedTransport
from tests.support.oauth_fixtures import MakeVerifier, config, tls_context
from tests.support.oauth_issuers import EPOCH, LoopbackIssuer, Reply, SigningKey
from tests.support.telemetry import Spans

# In every spelling that could be sent: as it is, form-urlencoded, and within base64 of the credentials.
CANARY = "canary"
SECRET = "canarysecret"
CLAIMS = {
    "email": "canary-email",
    "sub": "canary-subject",
    "scope": "canary-scope",
    "azp": "canary-client",
    "acr": "canary-acr",
    "realm_access": {"roles": ["canary-role"]},
}


def all_of(error: BaseException) -> str:
    """All that an error says: its own text and repr, and of whatever it came from, with the traceback."""
    parts = []
    seen: BaseException | None = error
    while seen is not None:
        parts += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__
    # The lines of the sources that a traceback quotes are ours.
    frames = traceback.TracebackException.from_exception(error, lookup_lines=False)
    return "\n".join([*parts, *frames.format_exception_only()])


Spoil = Callable[[LoopbackIssuer], str]


def forged(idp: LoopbackIssuer) -> str:
    return SigningKey.make(idp.keys[0].kid).sign(idp.claims(**CLAIMS))


def answering(reply: Any, **changes: Any) -> Spoil:
    def spoil(idp: LoopbackIssuer) -> str:
        idp.answer("introspect", reply)
        return idp.sign(**(CLAIMS | changes))

    return spoil


def claiming(**changes: Any) -> Spoil:
    return lambda idp: idp.grant(**(CLAIMS | changes))


SPOILS: dict[str, Spoil] = {
    "opaque": lambda idp: "canary-opaque",
    "too long": lambda idp: "canary" * 2000,
    "not ascii": lambda idp: "canary-é",
    "malformed": lambda idp: "canary.canary.canary.canary",
    "half a token": lambda idp: idp.sign(**CLAIMS).rpartition(".")[0],
    "forged": forged,
    "unknown issuer": claiming(iss="https://canary.test"),
    "unknown key": lambda idp: SigningKey.make("canary-kid").sign(idp.claims(**CLAIMS)),
    "algorithm": lambda idp: idp.keys[0].sign(idp.claims(**CLAIMS), {"alg": "canary", "kid": "key-1"}),
    "type": lambda idp: idp.keys[0].sign(
        idp.claims(**CLAIMS), {"alg": "ES256", "kid": "key-1", "typ": "canary"}
    ),
    "audience": claiming(aud="canary-audience"),
    "expired": claiming(exp=EPOCH - 1000),
    "expiry": claiming(exp="canary-expiry"),
    "not yet": claiming(nbf=EPOCH + 1000),
    "proof": claiming(cnf={"jkt": "canary"}),
    "subject": claiming(sub="canary\0"),
    "payload type": claiming(typ="canary-type"),
    "inactive": lambda idp: idp.sign(**CLAIMS),
    "introspection refused": answering(Reply({"error": "canary"}, 401)),
    "introspection failed": answering(Reply({"error_description": "canary"}, 500)),
    "introspection malformed": answering(Reply(b"canary")),
    "introspection redirected": answering(Reply(b"", 302, {"location": "https://canary.test/?canary"})),
    "introspection unreachable": answering(Reply(raw=b"canary\r\n\r\n")),
    "introspection hung up": answering(Reply(hang_up=True)),
    "other subject": answering(
        lambda _: Reply({"active": True, "aud": "gatehouse-api", "exp": EPOCH + 9, "typ": "Bearer"} | CLAIMS),
        sub="canary-other",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
async def test_refusal_tells_no_secret(
    spoil: Spoil,
    idp: LoopbackIssuer,
    make_verifier: MakeVerifier,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)  # below that, httpcore logs what it received, whatever it is
    made = Spans()
    tracer = made.tracer
    inner = httpx.AsyncHTTPTransport(trust_env=False, verify=tls_context())
    async with httpx.AsyncClient(transport=TracedTransport(tracer, inner), trust_env=False) as http:
        given = config(idp, "hybrid", client_secret=SECRET)
        verifier = await make_verifier(given, http=http, tracer=tracer)
        token = spoil(idp)
        for online in (False, True):
            with pytest.raises(OAuthError) as caught:
                await verifier.verify(token, online=online)
            said = all_of(caught.value)
            assert CANARY not in said
            assert not any(part in said for part in token.split(".") if len(part) > 20)
    spans = made.as_text()
    assert spans
    assert CANARY not in spans + caplog.text
    assert not any(part in spans + caplog.text for part in token.split(".") if len(part) > 20)
    assert CANARY not in repr(verifier)


async def test_good_token_leaves_no_trace_of_itself(
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


Asking = Callable[[httpx.AsyncClient, LoopbackIssuer], Awaitable[object]]


async def credentials(http: httpx.AsyncClient, idp: LoopbackIssuer) -> object:
    source = ClientCredentials(
        http=http, client_id="worker", client_secret=SECRET, token_endpoint=idp.url("token")
    )
    assert CANARY not in repr(source)
    try:
        return await source.token()
    finally:
        await source.aclose()


ASKING: dict[str, Asking] = {
    "token": credentials,
    "introspect": lambda http, idp: introspect(http, idp.url("introspect"), "worker", SECRET, "canary-token"),
    "revoke": lambda http, idp: revoke(http, idp.url("revoke"), "worker", SECRET, "canary-token"),
}


@pytest.mark.parametrize("endpoint", ASKING)
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
async def test_failed_request_of_a_client_tells_no_secret(
    endpoint: str,
    reply: Reply,
    http: httpx.AsyncClient,
    idp: LoopbackIssuer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gatehouse")
    idp.answer(endpoint, reply)
    with pytest.raises(OAuthError) as caught:
        await ASKING[endpoint](http, idp)

    assert CANARY not in all_of(caught.value) + caplog.text


async def test_token_that_no_header_could_carry_is_not_repeated(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply({"access_token": "canary\ntoken", "token_type": "Bearer"}))
    with pytest.raises(OAuthError) as caught:
        await credentials(http, idp)

    assert CANARY not in all_of(caught.value)


def test_configuration_shows_no_secret() -> None:
    made = IssuerConfig(
        issuer="https://a.test", audience="api", client_id="api", client_secret=SECRET, mode="hybrid"
    )

    assert CANARY not in repr(made)
