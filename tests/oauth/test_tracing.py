"""Traces of verification: a span where it goes beyond the cache, one for each request, no secret in any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gatehouse.oauth import InvalidToken, IssuerUnavailable, TracedTransport
from gatehouse.oauth._breaker import MIN_TOKENS
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config, tls_context
from tests.support.oauth_issuers import LoopbackIssuer, Reply, SigningKey, until
from tests.support.telemetry import Spans


class Trace(Spans):
    """Spans that have ended, and what makes them."""

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return tuple(self.finished())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    @property
    def text(self) -> str:
        """All that the spans say."""
        return "\n".join(span.to_json() for span in self.spans)


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
async def traced(trace: Trace) -> AsyncIterator[httpx.AsyncClient]:
    inner = httpx.AsyncHTTPTransport(trust_env=False, verify=tls_context())
    async with httpx.AsyncClient(transport=TracedTransport(trace.tracer, inner), trust_env=False) as client:
        yield client


@pytest.fixture
async def verifier(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, traced: httpx.AsyncClient, trace: Trace
) -> Verifier:
    made = await make_verifier(config(idp, "hybrid"), http=traced, tracer=trace.tracer)
    trace.clear()
    return made


async def test_request_has_a_client_span_that_says_where_and_what_came(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, trace: Trace
) -> None:
    await traced.get(idp.url("jwks"))

    (span,) = trace.spans
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": idp.port,
        "url.path": "/realms/test/jwks",
        "http.response.status_code": 200,
    }


async def test_trace_context_goes_out_with_the_request(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, trace: Trace
) -> None:
    with trace.tracer.start_as_current_span("caller"):
        await traced.get(idp.url("jwks"))

    request, caller = trace.spans
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
async def test_answer_of_an_error_marks_the_span(
    status: int, code: StatusCode, traced: httpx.AsyncClient, idp: LoopbackIssuer, trace: Trace
) -> None:
    idp.answer("jwks", Reply(b"", status))
    await traced.get(idp.url("jwks"))

    assert trace.spans[0].status.status_code is code
    assert (trace.spans[0].attributes or {})["http.response.status_code"] == status


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:1/x"])
async def test_request_without_an_answer_marks_the_span(
    url: str, traced: httpx.AsyncClient, trace: Trace
) -> None:
    with pytest.raises(httpx.ConnectError):
        await traced.get(url)

    (span,) = trace.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ConnectError"
    assert (span.attributes or {})["server.port"] == 1
    assert span.events == ()


async def test_request_that_ran_out_of_time_marks_the_span(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, trace: Trace
) -> None:
    idp.hold("jwks")
    asking = asyncio.create_task(traced.get(idp.url("jwks")))
    await until(lambda: idp.asked("jwks") == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    idp.release("jwks")

    (span,) = trace.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "CancelledError"


async def test_port_is_that_of_the_scheme_where_none_is_said(trace: Trace) -> None:
    """Asked of a transport that refuses to connect anywhere."""

    class Nowhere(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nowhere")

    async with httpx.AsyncClient(transport=TracedTransport(trace.tracer, Nowhere())) as client:
        for url in ("https://issuer.test/a", "http://issuer.test/a", "https://issuer.test:8443/a"):
            with pytest.raises(httpx.ConnectError):
                await client.get(url)

    assert [(span.attributes or {})["server.port"] for span in trace.spans] == [443, 80, 8443]


async def test_neither_query_nor_header_nor_body_reaches_a_span(
    traced: httpx.AsyncClient, idp: LoopbackIssuer, trace: Trace
) -> None:
    await traced.post(
        idp.url("token?canary-query=1"),
        data={"token": "canary-body"},
        headers={"authorization": "Bearer canary-header"},
    )

    assert idp.last("token").form == {"token": "canary-body"}
    assert "canary" not in trace.text


async def test_new_token_has_a_span_with_its_requests_below_it(
    verifier: Verifier, idp: LoopbackIssuer, trace: Trace
) -> None:
    await verifier.verify(idp.grant())

    (verify,) = trace.named("oauth.verify")
    (asked,) = trace.named("POST")
    assert (verify.kind, verify.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    assert dict(verify.attributes or {}) == {"oauth.issuer": idp.issuer, "oauth.mode": "hybrid"}
    assert asked.parent is not None
    assert asked.parent.span_id == verify.context.span_id


async def test_cached_token_has_no_span(verifier: Verifier, idp: LoopbackIssuer, trace: Trace) -> None:
    token = idp.grant()
    await verifier.verify(token)
    trace.clear()
    await verifier.verify(token)

    assert trace.spans == ()


async def test_refused_token_is_no_fault_of_its_span(
    verifier: Verifier, idp: LoopbackIssuer, trace: Trace
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(idp.sign())

    (verify,) = trace.named("oauth.verify")
    assert verify.status.status_code is StatusCode.UNSET
    assert (verify.attributes or {})["error.type"] == "token_inactive"
    assert verify.events == ()


async def test_outage_is_a_fault_of_its_span(verifier: Verifier, idp: LoopbackIssuer, trace: Trace) -> None:
    await idp.down()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(idp.grant())

    (verify,) = trace.named("oauth.verify")
    assert verify.status.status_code is StatusCode.ERROR
    assert (verify.attributes or {})["error.type"] == "introspection_unreachable"


async def test_search_for_an_issuer_that_is_down_is_no_part_of_a_call(
    verifier: Verifier, idp: LoopbackIssuer, trace: Trace
) -> None:
    tokens = [idp.grant() for _ in range(MIN_TOKENS)]
    await idp.down()
    for token in tokens:
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)

    await until(lambda: len(trace.named("POST")) == MIN_TOKENS + 1)
    probe = trace.named("POST")[-1]
    assert probe.parent is None


async def test_hanging_issuer_is_a_fault_of_its_span(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, traced: httpx.AsyncClient, trace: Trace
) -> None:
    verifier = await make_verifier(config(idp), http=traced, tracer=trace.tracer, answer_seconds=0.05)
    idp.hold("jwks")
    with pytest.raises(IssuerUnavailable, match="issuer_timeout"):
        await verifier.verify(SigningKey.make("new").sign(idp.claims()))
    idp.release("jwks")

    (verify,) = trace.named("oauth.verify")
    assert verify.status.status_code is StatusCode.ERROR
    assert (verify.attributes or {})["error.type"] == "issuer_timeout"
