"""Spans of verifications and of requests to issuers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gatehouse.oauth import InvalidToken, IssuerUnavailable, TracedTransport
from gatehouse.oauth._breaker import MIN_TOKENS
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config, tls_context
from tests.support.oauth_issuers import LoopbackIssuer, SigningKey
from tests.support.telemetry import Spans


def named(spans: Spans, name: str) -> list[ReadableSpan]:
    """Return the finished spans with `name`."""
    return [span for span in spans.finished() if span.name == name]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
async def traced(spans: Spans) -> AsyncIterator[httpx.AsyncClient]:
    inner = httpx.AsyncHTTPTransport(trust_env=False, verify=tls_context())
    async with httpx.AsyncClient(transport=TracedTransport(spans.tracer, inner), trust_env=False) as client:
        yield client


@pytest.fixture
async def verifier(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, traced: httpx.AsyncClient, spans: Spans
) -> Verifier:
    made = await make_verifier(config(idp, "hybrid"), http=traced, tracer=spans.tracer)
    spans.clear()
    return made


async def test_request_has_a_client_span(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, spans: Spans
) -> None:
    await traced.get(idp.url("jwks"))

    (span,) = spans.finished()
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes(span) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": idp.port,
        "url.path": "/realms/test/jwks",
        "http.response.status_code": 200,
    }


async def test_trace_context_is_propagated(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, spans: Spans
) -> None:
    with spans.tracer.start_as_current_span("caller"):
        await traced.get(idp.url("jwks"))

    request, caller = spans.finished()
    assert request.parent is not None
    assert request.parent.span_id == caller.context.span_id
    sent = idp.last("jwks").headers["traceparent"].split("-")
    assert sent[1:3] == [f"{caller.context.trace_id:032x}", f"{request.context.span_id:016x}"]
    assert "baggage" not in idp.last("jwks").headers


@pytest.mark.parametrize(
    ("status", "code"),
    [(200, StatusCode.UNSET), (302, StatusCode.UNSET), (400, StatusCode.ERROR), (404, StatusCode.ERROR)]
    + [(500, StatusCode.ERROR)],
)
async def test_span_status_follows_the_http_status(
    status: int, code: StatusCode, traced: httpx.AsyncClient, idp: LoopbackIssuer, spans: Spans
) -> None:
    idp.answer("jwks", Reply(b"", status))
    await traced.get(idp.url("jwks"))

    assert spans.finished()[0].status.status_code is code
    assert attributes(spans.finished()[0])["http.response.status_code"] == status


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:1/x"])
async def test_span_of_a_refused_connection_is_an_error(
    url: str, traced: httpx.AsyncClient, spans: Spans
) -> None:
    with pytest.raises(httpx.ConnectError):
        await traced.get(url)

    (span,) = spans.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ConnectError"
    assert attributes(span)["server.port"] == 1
    assert span.events == ()


async def test_span_of_a_cancelled_request_is_an_error(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, spans: Spans
) -> None:
    idp.hold("jwks")
    request = asyncio.create_task(traced.get(idp.url("jwks")))
    await eventually(lambda: idp.request_count("jwks") == 1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    idp.release("jwks")

    (span,) = spans.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "CancelledError"


async def test_default_port_depends_on_the_scheme(spans: Spans) -> None:
    class Refusing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=TracedTransport(spans.tracer, Refusing())) as client:
        for url in ("https://issuer.test/a", "http://issuer.test/a", "https://issuer.test:8443/a"):
            with pytest.raises(httpx.ConnectError):
                await client.get(url)

    assert [attributes(span)["server.port"] for span in spans.finished()] == [443, 80, 8443]


async def test_span_contains_no_query_header_or_body(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, spans: Spans
) -> None:
    await traced.post(
        idp.url("token?canary-query=1"),
        data={"token": "canary-body"},
        headers={"authorization": "Bearer canary-header"},
    )

    assert idp.last("token").form == {"token": "canary-body"}
    assert "canary" not in spans.as_text()


async def test_verification_span_is_the_parent_of_its_requests(
    verifier: Verifier, idp: LoopbackIssuer, spans: Spans
) -> None:
    await verifier.verify(idp.grant())

    (verify,) = named(spans, "oauth.verify")
    (introspection,) = named(spans, "POST")
    assert (verify.kind, verify.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    assert attributes(verify) == {"oauth.issuer": idp.issuer, "oauth.mode": "hybrid"}
    assert introspection.parent is not None
    assert introspection.parent.span_id == verify.context.span_id


async def test_cached_token_makes_no_span(verifier: Verifier, idp: LoopbackIssuer, spans: Spans) -> None:
    token = idp.grant()
    await verifier.verify(token)
    spans.clear()
    await verifier.verify(token)

    assert spans.finished() == []


async def test_span_of_a_refused_token_is_not_an_error(
    verifier: Verifier, idp: LoopbackIssuer, spans: Spans
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(idp.sign())

    (verify,) = named(spans, "oauth.verify")
    assert verify.status.status_code is StatusCode.UNSET
    assert attributes(verify)["error.type"] == "token_inactive"
    assert verify.events == ()


async def test_span_of_an_outage_is_an_error(verifier: Verifier, idp: LoopbackIssuer, spans: Spans) -> None:
    await idp.stop()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(idp.grant())

    (verify,) = named(spans, "oauth.verify")
    assert verify.status.status_code is StatusCode.ERROR
    assert attributes(verify)["error.type"] == "introspection_unreachable"


async def test_probe_span_has_no_parent(verifier: Verifier, idp: LoopbackIssuer, spans: Spans) -> None:
    tokens = [idp.grant() for _ in range(MIN_TOKENS)]
    await idp.stop()
    for token in tokens:
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)

    await eventually(lambda: len(named(spans, "POST")) == MIN_TOKENS + 1)
    probe = named(spans, "POST")[-1]
    assert probe.parent is None


async def test_span_of_a_timeout_is_an_error(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, traced: httpx.AsyncClient, spans: Spans
) -> None:
    verifier = await make_verifier(config(idp), http=traced, tracer=spans.tracer, answer_seconds=0.05)
    idp.hold("jwks")
    with pytest.raises(IssuerUnavailable, match="issuer_timeout"):
        await verifier.verify(SigningKey.make("new").sign(idp.claims()))
    idp.release("jwks")

    (verify,) = named(spans, "oauth.verify")
    assert verify.status.status_code is StatusCode.ERROR
    assert attributes(verify)["error.type"] == "issuer_timeout"
