"""Hostile metadata and requests: they are refused early, and other callers notice nothing."""

import asyncio
import gc
import re
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatehouse.oauth import (
    MAX_AUTHORIZATION_CHARS,
    InvalidRequest,
    InvalidToken,
    Refusal,
    parse_authorization,
)
from gatehouse.rpc._metadata import ENTRY_OVERHEAD_BYTES, MAX_ENTRIES, read_metadata
from tests.support.http2 import open_raw_client
from tests.support.probe_process import probe_process
from tests.support.rpc import METHODS, PROBE, Env, Text, error_info, reached

PATH = "/probe.v1.Probe/Unary"
WATCH = "/grpc.health.v1.Health/Watch"
MALFORMED: dict[str, Any] = {
    "repeated": [("authorization", "Bearer good"), ("authorization", "Bearer good")],
    "repeated and different": [("authorization", "Bearer good"), ("authorization", "Basic x")],
    "another scheme": [("authorization", "Basic good")],
    "a scheme alone": [("authorization", "Bearer")],
    "a scheme and a space": [("authorization", "Bearer ")],
    "empty": [("authorization", "")],
    "a token alone": [("authorization", "good")],
    "two tokens by comma": [("authorization", "Bearer good,other")],
    "two credentials by comma": [("authorization", "Bearer good, Bearer good")],
    "two words": [("authorization", "Bearer good more")],
    "padding inside": [("authorization", "Bearer go=od")],
    "only padding": [("authorization", "Bearer ==")],
    "too long": [("authorization", "Bearer " + "x" * MAX_AUTHORIZATION_CHARS)],
}


@pytest.mark.parametrize("metadata", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("name", METHODS)
async def test_malformed_authorization_is_refused_before_verification(
    env: Env, name: str, metadata: Any
) -> None:
    code, trailers, _ = await env.client.outcome(name, "a", metadata=metadata)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert 'error="invalid_request"' in trailers["www-authenticate"]
    assert error_info(trailers).reason.startswith("AUTHORIZATION_")
    assert (env.verifier.asked, env.probe.parsed) == ([], [])


@pytest.mark.parametrize(
    "metadata", [[], [("authorization-bin", b"Bearer good")], [("x-authorization", "Bearer good")]]
)
async def test_other_entries_are_not_credentials(env: Env, metadata: Any) -> None:
    code, trailers, _ = await env.client.outcome("Unary", "a", metadata=metadata)
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    assert (env.verifier.asked, env.probe.parsed) == ([], [])


async def test_handlers_do_not_see_the_credentials(env: Env) -> None:
    seen: list[tuple[str, Any]] = []

    async def look(_: object, context: Any) -> None:
        seen.extend(context.invocation_metadata())

    env.probe.on_message = look
    await env.client.outcome("Unary", "a", metadata=(("authorization", "Bearer good"), ("x-more", "1")))
    assert ("x-more", "1") in seen
    assert "good" not in str(seen)


@pytest.mark.parametrize("given", ["a-request.1", "A" * 64])
async def test_a_valid_request_id_is_kept(env: Env, given: str) -> None:
    _, trailers, _ = await env.client.outcome("Unary", "a", metadata=(("x-request-id", given),))
    assert trailers["x-request-id"] == given
    assert (await env.line())["request_id"] == given


@pytest.mark.parametrize("given", ["", "two words", "A" * 65, 'quote"', "{json}"])
async def test_an_invalid_request_id_is_replaced(env: Env, given: str) -> None:
    await env.client.outcome("Unary", "a", metadata=(("x-request-id", given),))
    assert re.fullmatch(r"[0-9a-f]{16}", (await env.line())["request_id"])


@pytest.mark.parametrize(
    "value",
    [
        b"B\xe9arer good",
        b"Bearer \xff\xfe",
        "Bearer gööd".encode(),
        b"Bearer\tgood",
        b"Bearer good\0",
        b"Bearer good\r\nx-injected: 1",
    ],
)
async def test_authorization_with_invalid_bytes_is_refused(env: Env, value: bytes) -> None:
    async with open_raw_client(env.port) as client:
        await client.send(*client.headers(1, PATH, [("authorization", value)]), client.message(1, b""))
        async with asyncio.timeout(10):
            outcome = await client.outcome(1)
    assert (outcome["grpc-status"], outcome["grpc-message"]) == (
        "16",
        "malformed authorization metadata; send exactly one bearer token",
    )
    assert (env.verifier.asked, env.probe.parsed) == ([], [])


async def outcome_of_oversize_token(env: Env, length: int) -> dict[str, str]:
    """Make a call whose client does not acknowledge SETTINGS, so that gRPC's own limit does not apply."""
    async with open_raw_client(env.port) as client:
        entry = ("authorization", "Bearer " + "x" * length)
        await client.send(*client.headers(1, PATH, [entry]), client.message(1, b""))
        async with asyncio.timeout(10):
            return await client.outcome(1)


async def test_a_token_that_is_too_long_is_refused_before_verification(env: Env) -> None:
    outcome = await outcome_of_oversize_token(env, 9_000)
    assert outcome["grpc-status"] == "16"
    assert 'error_description="authorization too long"' in outcome["www-authenticate"]
    assert (env.verifier.asked, env.probe.parsed) == ([], [])


@pytest.mark.parametrize("length", [17_000, 1 << 20])
async def test_metadata_limit_applies_without_settings_ack(env: Env, length: int) -> None:
    assert (await outcome_of_oversize_token(env, length))["grpc-status"] == "8"
    assert (env.verifier.asked, env.probe.parsed) == ([], [])


TOO_LARGE = {
    "entries": [("x-more", "1")] * MAX_ENTRIES,
    "bytes": [("x-more", "x" * 4096)] * 4,
}
PATHS = [*(f"/{PROBE}/{name}" for name in METHODS), WATCH, "/grpc.health.v1.Health/Check", "/no.such/Rpc"]


@pytest.mark.parametrize("metadata", TOO_LARGE.values(), ids=TOO_LARGE.keys())
@pytest.mark.parametrize("path", PATHS)
async def test_oversize_metadata_is_refused_first(env: Env, path: str, metadata: Any) -> None:
    metadata = [("authorization", "Bearer good"), ("x-request-id", "from-the-client"), *metadata]
    async with open_raw_client(env.port) as client:
        await client.send(*client.headers(1, path, metadata), client.message(1, b""))
        async with asyncio.timeout(10):
            outcome = await client.outcome(1)
    assert (outcome["grpc-status"], outcome["grpc-message"]) == (
        "8",
        "the metadata is too large; send at most 16384 bytes in 100 entries",
    )
    assert (env.verifier.asked, env.probe.parsed) == ([], [])
    line = await env.line()
    assert (line["level"], line["reason"]) == ("warning", "METADATA_TOO_LARGE")
    assert line["request_id"] == outcome["x-request-id"] != "from-the-client"


@pytest.mark.parametrize("value", ["x" * 100, b"\xff" * 100, "\u20ac" * 33 + "x"])
def test_metadata_can_be_as_large_as_the_limits(value: str | bytes) -> None:
    size = ENTRY_OVERHEAD_BYTES + len("x-more") + 100
    metadata = [("x-more", value)] * MAX_ENTRIES
    assert not read_metadata(metadata, MAX_ENTRIES * size).too_large
    assert read_metadata(metadata, MAX_ENTRIES * size - 1).too_large
    assert read_metadata([*metadata, ("", "")], 1 << 20).too_large


def test_kept_metadata_is_bounded_whatever_the_limit() -> None:
    long = "x" * 100_000
    names = ["authorization", "authorization", "authorization", "traceparent", "tracestate", "x-request-id"]
    kept = read_metadata([(name, long) for name in names], 1 << 30)
    assert [len(entry) for entry in kept.authorization] == [MAX_AUTHORIZATION_CHARS + 1] * 2
    assert (kept.traceparent, kept.tracestate, kept.request_id) == ("", "", "")


def ignore_what_exists() -> None:
    """Let `entries_in_memory` count new entries only, without a look at all objects of this process."""
    gc.collect()
    gc.freeze()


def entries_in_memory(name: str) -> int:
    """Count the metadata entries with this name that gRPC decoded and this process still holds."""
    gc.collect()
    return sum(isinstance(o, tuple) and getattr(o, "key", None) == name for o in gc.get_objects())


@pytest.mark.parametrize("name", METHODS)
async def test_metadata_is_not_held_unless_a_handler_reads_it(env: Env, name: str) -> None:
    ignore_what_exists()
    counts: list[int] = []

    async def look(_: object, context: Any) -> None:
        counts.append(entries_in_memory("x-mark"))
        metadata = context.invocation_metadata()
        counts.append(entries_in_memory("x-mark"))
        assert ("x-mark", "1") in metadata

    env.probe.on_message = look
    async with open_raw_client(env.port) as client:
        metadata = [("authorization", "Bearer good"), ("x-mark", "1")]
        await client.send(*client.headers(1, f"/{PROBE}/{name}", metadata), client.message(1, b""))
        async with asyncio.timeout(30):
            assert (await client.outcome(1))["grpc-status"] == "0"
    assert counts == [0, 1]


async def test_a_health_watch_holds_no_metadata(env: Env) -> None:
    ignore_what_exists()
    async with open_raw_client(env.port) as client:
        await client.send(*client.headers(1, WATCH, [("x-mark", "1")]), client.message(1, b""))
        async with asyncio.timeout(30):
            await client.wait_for_responses([1])
        assert entries_in_memory("x-mark") == 0


async def test_compressed_metadata_does_not_exhaust_memory() -> None:
    """HPACK encodes a repeated header in one byte.

    If the metadata of these streams were held, it would take 170 MB. A bare grpc.aio server grows by 16 MB.
    """
    streams = range(1, 88, 2)
    async with probe_process() as process, open_raw_client(process.port) as client:
        memory = psutil.Process(process.process.pid).memory_info
        before = memory().rss
        for stream in streams:
            frames = client.headers(stream, WATCH, [("x-more", "x" * 3900)] * 1000)
            await client.send(*frames, client.message(stream, b""))
        async with asyncio.timeout(60):
            await client.wait_for_responses(streams)
        grown = memory().rss - before
    assert grown < 40e6


@pytest.mark.parametrize("first", [True, False])
async def test_oversize_metadata_of_a_grpc_client_is_refused(env: Env, first: bool) -> None:
    entries = [("authorization", "Bearer good"), ("x-more", "x" * 20_000)]
    code, _, _ = await env.client.outcome("Unary", "a", metadata=entries if first else entries[::-1])
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (env.probe.parsed, env.probe.handled) == ([], [])


async def test_a_valid_call_of_the_raw_client_is_answered(env: Env) -> None:
    """Each invalid call differs from this one in one thing only."""
    async with open_raw_client(env.port) as client:
        frames = client.headers(1, PATH, [("authorization", "Bearer good")])
        await client.send(*frames, client.message(1, Text(value="a").SerializeToString()))
        async with asyncio.timeout(10):
            assert (await client.outcome(1))["grpc-status"] == "0"


@pytest.mark.parametrize(
    "path",
    [
        "probe.v1.Probe/Unary",
        "//probe.v1.Probe/Unary",
        f"{PATH}/",
        f"{PATH}?x=1",
        "/PROBE.v1.Probe/Unary",
        "/probe.v1.Probe%2FOneOne",
        "/",
        "",
        "*",
    ],
)
async def test_a_path_that_does_not_match_exactly_is_unimplemented(env: Env, path: str) -> None:
    async with open_raw_client(env.port) as client:
        frames = client.headers(1, path, [("authorization", "Bearer good")])
        await client.send(*frames, client.message(1, b""))
        async with asyncio.timeout(10):
            outcome = await client.outcome(1)
    assert (outcome["grpc-status"], outcome["grpc-message"]) == ("12", "unknown RPC")
    assert (env.verifier.asked, env.probe.parsed) == ([], [])
    # Callers cannot choose metric labels.
    assert [line["method"] for line in env.lines()] == ["unknown"]


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/probe.v1.Probe/\xc3", f"{PATH}\xe9".encode("latin-1")])
async def test_a_path_that_is_not_utf8_is_refused_and_does_not_stop_the_server(
    env: Env, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC refuses it before the chain; 1.84 and 1.85, which pyproject.toml excludes, then stop listening."""
    async with open_raw_client(env.port) as client:
        await client.send(
            *client.headers(1, path, [("authorization", "Bearer good")]), client.message(1, b"")
        )
        async with asyncio.timeout(10):
            outcome = await client.outcome(1)
    assert outcome["grpc-status"] == "2"
    assert (env.verifier.asked, env.probe.parsed, env.lines()) == ([], [], [])
    assert [(r.levelname, r.getMessage(), r.exc_info) for r in caplog.records if "grpc" in r.name] == [
        ("WARNING", "gRPC refused a call whose path is not UTF-8", None)
    ]
    assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.OK
    assert env.verifier.asked == [("good", False)]


@pytest.mark.parametrize(
    "name", ["authorization", "x-request-id", "traceparent", "tracestate", "x-write-token", "x-other"]
)
async def test_metadata_that_is_not_utf8_is_not_logged(
    env: Env, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_raw_client(env.port) as client:
        frames = client.headers(1, PATH, [(name, b"Bearer canary\xff")])
        await client.send(*frames, client.message(1, b""))
        async with asyncio.timeout(10):
            assert (await client.outcome(1))["grpc-status"] == "16"
    assert "canary" not in caplog.text
    assert [r.getMessage() for r in caplog.records if "grpc" in r.name] == []
    assert "canary" not in str(await env.line())


async def test_rapid_resets_do_not_affect_other_callers(env: Env) -> None:
    """CVE-2023-44487: requests of calls that were reset are never parsed."""
    codes: list[grpc.StatusCode] = []
    done = asyncio.Event()

    async def call_repeatedly() -> None:
        while not done.is_set() or len(codes) < 20:
            codes.append((await env.client.outcome("Unary", "a"))[0])

    async with asyncio.timeout(60):
        calling = asyncio.create_task(call_repeatedly())
        async with open_raw_client(env.port) as client:
            for count, stream in enumerate(range(1, 4001, 2)):
                frames = client.headers(stream, PATH, [("authorization", "Bearer unknown")])
                await client.send(*frames, client.reset(stream))
                if count % 50 == 0:
                    await reached(lambda: len(codes), len(codes) + 1)
        done.set()
        await calling
    assert set(codes) == {grpc.StatusCode.OK}
    assert env.probe.parsed == [Text(value="a").SerializeToString()] * len(codes)


async def test_an_oversize_request_is_refused_and_not_parsed(env: Env) -> None:
    call = env.client.call("Unary", "x" * (4 * 1024 * 1024 + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert env.probe.parsed == []


B64TOKEN = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/")


def reference(entry: str) -> str | None:
    """Return the token of an entry by RFC 6750 section 2.1 and RFC 9110 section 11.1, or None."""
    if entry[:6].lower() != "bearer" or entry[6:7] != " " or not entry.isascii():
        return None
    token = entry[6:].lstrip(" ")
    body = token.rstrip("=")
    return token if body and all(c in B64TOKEN for c in body) else None


entries = st.one_of(
    st.text(),
    st.builds(
        lambda scheme, spaces, token, rest: scheme + spaces + token + rest,
        st.sampled_from(["Bearer", "bearer", "BEARER", "beareR", "Basic", "DPoP", "Bearer:", " Bearer", "K"]),
        st.sampled_from([" ", "", "  ", "\t", " \t", "\u00a0"]),
        st.text("abzAZ09-._~+/=, \n\u212a", max_size=12),
        st.sampled_from(["", "=", "==", " ", "\n", "\r\n", "\0"]),
    ),
)


@given(entries)
@example("Bearer a\n")
@example("Bearer a=")
@example("Bearer =a")
@example("\u212aearer a")
def test_parser_follows_rfc_6750(entry: str) -> None:
    wanted = reference(entry)
    if wanted is None:
        with pytest.raises(InvalidRequest):
            parse_authorization([entry])
    else:
        assert parse_authorization([entry]).value == wanted


@given(st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20)), max_size=3))
def test_exactly_one_text_entry_is_accepted(given_entries: list[str | bytes]) -> None:
    usable = len(given_entries) == 1 and isinstance(given_entries[0], str) and reference(given_entries[0])
    if usable:
        assert parse_authorization(given_entries).value == usable
        return
    with pytest.raises(Refusal) as caught:
        parse_authorization(given_entries)
    assert isinstance(caught.value, InvalidRequest if given_entries else InvalidToken)


def test_an_entry_can_be_as_long_as_the_limit() -> None:
    entry = "Bearer " + "x" * (MAX_AUTHORIZATION_CHARS - 7)
    with pytest.raises(InvalidToken, match="token_too_long"):  # longer than a token may be, but not too long
        parse_authorization([entry])
    with pytest.raises(InvalidRequest, match="authorization_too_long"):
        parse_authorization([entry + "x"])
