"""HTTP requests to issuers: which URLs are allowed, and limits on time and memory for any response."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatehouse.oauth import HttpFailure, IssuerUnavailable
from gatehouse.oauth._http import (
    FETCH_SECONDS,
    MAX_BODY_BYTES,
    IssuerResponse,
    get_object,
    post_form,
    request_url_error,
)
from gatehouse.oauth.errors import IssuerUnreachable
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import Stopwatch, tls_context
from tests.support.oauth_issuers import LoopbackIssuer


async def get(http: httpx.AsyncClient, idp: LoopbackIssuer, reply: Reply) -> Any:
    """Return the JSON object of `reply` to a GET."""
    idp.answer("document", reply)
    return await get_object(http, idp.url("document"), allow_http=False, what="keys")


async def failure(http: httpx.AsyncClient, idp: LoopbackIssuer, reply: Reply) -> str:
    """Return the reason for which `reply` to a GET is an outage."""
    with pytest.raises(IssuerUnavailable) as caught:
        await get(http, idp, reply)
    return caught.value.reason


# URLs


@pytest.mark.parametrize(
    "url",
    ["https://a.test", "https://a.test:1/x?y=z", "https://192.0.2.1/", "http://127.0.0.1:8080/x"]
    + ["http://127.1.2.3", "http://[::1]:80/", "http://localhost/realms/r", "HTTPS://A.TEST/"],
)
def test_https_and_loopback_http_urls_are_accepted(url: str) -> None:
    assert request_url_error(url, allow_http=False) == ""


@pytest.mark.parametrize(
    "url",
    ["http://a.test", "http://192.0.2.1", "http://[2001:db8::1]/", "http://localhost.a.test/"]
    + ["http://127.0.0.1.a.test/", "http://0.0.0.0/", "ftp://a.test/", "file://localhost/etc/passwd"]
    + ["ws://a.test/", "data://a.test/"],
)
def test_other_schemes_are_refused(url: str) -> None:
    assert request_url_error(url, allow_http=False) == "url_not_https"


@pytest.mark.parametrize(
    "url",
    ["", "a.test", "/path", "//", "https://", "https:///path", "file:///etc/passwd", "https://[::1"]
    + ["https://a:b/", "https://a.test:0/", "https://a.test:65536/", "https://a.test:99999/"]
    + ["https://user@a.test/", "https://user:pass@a.test/", "https://a.test/#fragment"]
    + ["https://a\ud800b.test/", "https://a.test/\ud800", "https://xn--a/", "https://a\0.test/"]
    + ["https://a.test/\n", "https://" + "a" * 70_000, "mailto:a@a.test", "javascript:alert(1)"],
)
@pytest.mark.parametrize("allow_http", [True, False])
def test_malformed_url_is_refused(url: str, allow_http: bool) -> None:
    assert request_url_error(url, allow_http=allow_http) == "url_malformed"


def test_allow_http_accepts_http_and_no_other_scheme() -> None:
    assert request_url_error("http://keycloak:8080/realms/r", allow_http=True) == ""
    assert request_url_error("ftp://keycloak/", allow_http=True) == "url_not_https"


@given(
    st.text(alphabet=st.characters(), max_size=40)
    | st.text(alphabet=st.characters(), max_size=30).map(lambda rest: f"https://{rest}")
)
@example("https://a.test:\u0663/")
@example("https://\u2100/")
def test_url_check_never_raises(url: str) -> None:
    assert request_url_error(url, allow_http=False) in {"", "url_malformed", "url_not_https"}


async def test_no_request_is_sent_to_an_unsafe_url(http: httpx.AsyncClient) -> None:
    with pytest.raises(IssuerUnavailable, match="url_not_https"):
        await get_object(http, "http://issuer.test/keys", allow_http=False, what="keys")
    with pytest.raises(IssuerUnavailable, match="url_malformed"):
        await post_form(http, "https://a.test:99999/", {}, None, allow_http=False, what="introspection")


# Requests


async def test_request_asks_for_uncompressed_json(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    assert await get(http, idp, Reply({"a": 1})) == {"a": 1}

    assert idp.last("document").headers["accept-encoding"] == "identity"
    assert idp.last("document").headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "auth",
    [("client", "secret"), ("a:b", "c:d"), ("ünï", "söcret"), ("a b+c", "d%20e&f=g"), ("a", "%zz\t\"'<>")],
)
async def test_basic_credentials_are_form_urlencoded(
    auth: tuple[str, str], http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("endpoint", Reply({}))
    await post_form(http, idp.url("endpoint"), {"a": "ü &="}, auth, allow_http=False, what="x")

    request = idp.last("endpoint")
    assert request.basic == auth
    assert base64.b64decode(request.headers["authorization"][6:]).count(b":") == 1
    assert request.form == {"a": "ü &="}


async def test_public_client_sends_no_credentials(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.answer("endpoint", Reply({}))
    await post_form(http, idp.url("endpoint"), {}, None, allow_http=False, what="x")

    assert "authorization" not in idp.last("endpoint").headers


async def test_credentials_of_the_http_client_are_not_sent(idp: LoopbackIssuer) -> None:
    async with httpx.AsyncClient(auth=("other", "other"), trust_env=False) as http:
        assert await get(http, idp, Reply({})) == {}

    assert "authorization" not in idp.last("document").headers


# Responses


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer, other_idp: LoopbackIssuer
) -> None:
    other_idp.answer("target", Reply({"keys": []}))
    redirect = Reply(b"", status, {"location": other_idp.url("target")})
    idp.answer("endpoint", redirect)

    assert await failure(http, idp, redirect) == "keys_redirected"
    with pytest.raises(IssuerUnavailable, match="introspection_redirected"):
        await post_form(
            http, idp.url("endpoint"), {"token": "t"}, ("a", "b"), allow_http=False, what="introspection"
        )
    assert other_idp.requests == []


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("location", ["http://[::1", "https://a\\b/", "::::", ""])
async def test_redirect_to_an_invalid_location_is_an_outage(
    location: str, follow: bool, idp: LoopbackIssuer
) -> None:
    async with httpx.AsyncClient(follow_redirects=follow, trust_env=False, verify=tls_context()) as http:
        reason = await failure(http, idp, Reply(b"", 302, {"location": location}))

    assert reason in {"keys_redirected", "keys_unreachable"}


@pytest.mark.parametrize("status", [201, 204, 400, 401, 403, 404, 410, 429, 500, 502, 503])
async def test_status_other_than_200_is_an_outage(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    assert await failure(http, idp, Reply({"keys": []} if status != 204 else b"", status)) == "keys_failed"


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", "application/jwk-set+json", "application/json ;"],
)
async def test_json_media_types_are_accepted(kind: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    assert await get(http, idp, Reply({"a": 1}, headers={"content-type": kind})) == {"a": 1}


@pytest.mark.parametrize(
    "kind",
    ["", "text/html", "text/json", "text/plain", "application/octet-stream", "application/jwt", "json"]
    + ["application/json-patch", "application/token-introspection+jwt", "application/x-json"],
)
async def test_other_media_types_are_refused(kind: str, http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    assert await failure(http, idp, Reply({"a": 1}, headers={"content-type": kind})) == "keys_not_json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"<html>",
        b"{'a':1}",
        b'{"a":1',
        b'{"a":1}{"b":2}',
        b'{"a":1,"a":2}',
        b'{"o":[{"a":1,"a":1}]}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        rb'{"a":"\ud800"}',
        rb'{"\uDFFF":1}',
        rb'{"a":["\udc00\ud800"]}',
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" * 60_000,
        b'{"a":' + b"9" * 60_000 + b"}",
        b'{"a":"line\nbreak"}',
    ],
    ids=range(24),
)
async def test_body_must_be_one_json_object(
    body: bytes, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    assert await failure(http, idp, Reply(body)) == "keys_not_json"


async def test_unicode_escapes_are_decoded(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    assert await get(http, idp, Reply(rb'{"a":"\u00e9\ud83d\ude00"}')) == {"a": "é😀"}


async def test_body_is_limited_to_64_kib(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    longest = b'{"a":"' + b"x" * (64 * 1024 - 8) + b'"}'

    assert len(longest) == MAX_BODY_BYTES
    assert await get(http, idp, Reply(longest))
    assert await failure(http, idp, Reply(longest + b" ")) == "keys_body_too_large"


async def test_endless_body_is_cut_off(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b" " * 10_000
        finally:
            ended.set()

    assert await failure(http, idp, Reply(stream=endless())) == "keys_body_too_large"
    await asyncio.wait_for(ended.wait(), 5)


@functools.cache
def compressed() -> tuple[bytes, bytes]:
    """Return a body of a hundred times the limit in the formats gzip and zlib."""
    plain = b'{"a":"' + bytes(100 * MAX_BODY_BYTES) + b'"}'
    return gzip.compress(plain), zlib.compress(plain)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "identity, gzip"])
async def test_compressed_body_is_not_decompressed(
    encoding: str, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    body = compressed()[encoding == "deflate"]
    assert len(body) < MAX_BODY_BYTES

    assert await failure(http, idp, Reply(body, headers={"content-encoding": encoding})) == "keys_not_json"


@pytest.mark.parametrize(
    "raw",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", b"\x16\x03\x01\0\0"]
    + [b"HTTP/1.1 999999 Status\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"]
    + [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}"]
    + [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"]
    + [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n{}"],
    ids=range(9),
)
async def test_malformed_http_response_is_an_outage(
    raw: bytes, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    assert await failure(http, idp, Reply(raw=raw)) == "keys_unreachable"


async def test_refused_connection_is_an_outage(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    await idp.stop()

    assert await failure(http, idp, Reply({})) == "keys_unreachable"


async def test_dropped_connection_is_an_outage(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    assert await failure(http, idp, Reply(hang_up=True)) == "keys_unreachable"


async def test_slow_response_times_out_after_five_seconds(idp: LoopbackIssuer) -> None:
    ended = asyncio.Event()

    async def drip() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b" "
                await asyncio.sleep(0.05)
        finally:
            ended.set()

    idp.hold("hanging")
    idp.answer("dripping", Reply(stream=drip()))
    async with (
        httpx.AsyncClient(trust_env=False, verify=tls_context(), timeout=60) as http,
        Stopwatch() as watch,
    ):
        outcomes = await asyncio.gather(
            *(get_object(http, idp.url(n), allow_http=False, what="keys") for n in ("hanging", "dripping")),
            return_exceptions=True,
        )

    assert [str(outcome) for outcome in outcomes] == ["keys_timeout", "keys_timeout"]
    assert FETCH_SECONDS == 5.0
    assert watch.seconds < 6.0
    await asyncio.wait_for(ended.wait(), 5)
    idp.release("hanging")


async def test_timeout_of_the_http_client_is_an_outage(idp: LoopbackIssuer) -> None:
    idp.hold("document")
    async with httpx.AsyncClient(trust_env=False, verify=tls_context(), timeout=0.05) as http:
        assert await failure(http, idp, Reply({})) == "keys_timeout"
    idp.release("document")


async def test_exhausted_connection_pool_is_an_outage(idp: LoopbackIssuer) -> None:
    idp.hold("slow")
    limits = httpx.Limits(max_connections=1)
    timeout = httpx.Timeout(5, pool=0.05)
    async with httpx.AsyncClient(
        trust_env=False, verify=tls_context(), limits=limits, timeout=timeout
    ) as http:
        slow = asyncio.create_task(get_object(http, idp.url("slow"), allow_http=False, what="keys"))
        await eventually(lambda: idp.request_count("slow") == 1)
        assert await failure(http, idp, Reply({})) == "keys_timeout"
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
    idp.release("slow")


@pytest.mark.parametrize(
    ("reply", "reached"),
    [
        (Reply(hang_up=True), False),
        (Reply(raw=b"garbage\r\n\r\n"), False),
        (Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"), True),
        (Reply(b" " * 70_000), True),
        (Reply(b"", 302, {"location": "/elsewhere"}), True),
        (Reply(b"", 503), True),
        (Reply(b"<html>"), True),
    ],
    ids=range(7),
)
async def test_issuer_is_unreachable_only_without_a_response(
    reply: Reply, reached: bool, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    with pytest.raises(IssuerUnavailable) as caught:
        await get(http, idp, reply)

    assert isinstance(caught.value, IssuerUnreachable) is not reached


async def test_outage_holds_neither_request_nor_response(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    """The exceptions of httpx hold the request with its credentials."""
    idp.answer("endpoint", Reply(raw=b"HTTP/1.1 canary-answer\r\n\r\n"))
    with pytest.raises(IssuerUnavailable) as caught:
        await post_form(
            http, idp.url("endpoint"), {"token": "t"}, ("a", "b"), allow_http=False, what="introspection"
        )

    failure = caught.value.__context__
    assert isinstance(failure, HttpFailure)
    assert (failure.args, failure.__context__) == (("unreachable",), None)
    assert caught.value.__cause__ is None
    assert caught.value.args == ("introspection_unreachable",)


@pytest.mark.parametrize(
    ("status", "ok", "is_unavailable"),
    [(200, True, False), (201, False, False), (400, False, False), (401, False, False)]
    + [(429, False, True), (500, False, True), (503, False, True), (599, False, True)],
)
def test_response_is_classified_by_its_status(status: int, ok: bool, is_unavailable: bool) -> None:
    response = IssuerResponse(status, {"secret": "canary"})

    assert (response.ok, response.is_unavailable) == (ok, is_unavailable)
    assert "canary" not in repr(response)
