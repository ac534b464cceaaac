"""Metadata that was made to hurt: it is refused early, cheaply, and alone."""

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
from tests.support.rpc import PROBE, SHAPES, Stand, Text, error_info, reached

PATH = "/probe.v1.Probe/OneOne"
WATCH = "/grpc.health.v1.Health/Watch"
HOSTILE: dict[str, Any] = {
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


@pytest.mark.parametrize("metadata", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", SHAPES)
async def test_hostile_authorization_is_refused_before_any_token_is_looked_at(
    stand: Stand, name: str, metadata: Any
) -> None:
    code, trailers, _ = await stand.client.outcome(name, "a", metadata=metadata)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert 'error="invalid_request"' in trailers["www-authenticate"]
    assert error_info(trailers).reason.startswith("AUTHORIZATION_")
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])


@pytest.mark.parametrize(
    "metadata", [[], [("authorization-bin", b"Bearer good")], [("x-authorization", "Bearer good")]]
)
async def test_other_entries_are_no_authorization(stand: Stand, metadata: Any) -> None:
    code, trailers, _ = await stand.client.outcome("OneOne", "a", metadata=metadata)
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])


async def test_a_handler_never_sees_the_authorization(stand: Stand) -> None:
    seen: list[tuple[str, Any]] = []

    async def look(_: object, context: Any) -> None:
        seen.extend(context.invocation_metadata())

    stand.probe.on_message = look
    await stand.client.outcome("OneOne", "a", metadata=(("authorization", "Bearer good"), ("x-more", "1")))
    assert ("x-more", "1") in seen
    assert "good" not in str(seen)


@pytest.mark.parametrize("given", ["a-request.1", "A" * 64])
async def test_a_usable_request_id_is_taken_over(stand: Stand, given: str) -> None:
    _, trailers, _ = await stand.client.outcome("OneOne", "a", metadata=(("x-request-id", given),))
    assert trailers["x-request-id"] == given
    assert (await stand.line())["request_id"] == given


@pytest.mark.parametrize("given", ["", "two words", "A" * 65, 'quote"', "{json}"])
async def test_a_request_id_that_could_break_a_line_is_replaced(stand: Stand, given: str) -> None:
    await stand.client.outcome("OneOne", "a", metadata=(("x-request-id", given),))
    assert re.fullmatch(r"[0-9a-f]{16}", (await stand.line())["request_id"])


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
async def test_bytes_that_no_grpc_client_would_send_are_refused(stand: Stand, value: bytes) -> None:
    async with open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, PATH, [("authorization", value)]), client.message(1, b""))
        async with asyncio.timeout(10):
            ending = await client.ending(1)
    assert (ending["grpc-status"], ending["grpc-message"]) == (
        "16",
        "the authorization metadata is malformed",
    )
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])


async def ending_of_an_oversize_token(stand: Stand, length: int) -> dict[str, str]:
    """How a call ends whose client never sends the ACK of SETTINGS that gRPC's own limit waits for."""
    async with open_raw_client(stand.port) as client:
        entry = ("authorization", "Bearer " + "x" * length)
        await client.send(*client.headers(1, PATH, [entry]), client.message(1, b""))
        async with asyncio.timeout(10):
            return await client.ending(1)


async def test_a_token_that_is_too_long_is_refused_before_it_is_looked_at(stand: Stand) -> None:
    ending = await ending_of_an_oversize_token(stand, 9_000)
    assert ending["grpc-status"] == "16"
    assert 'error_description="authorization too long"' in ending["www-authenticate"]
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])


@pytest.mark.parametrize("length", [17_000, 1 << 20])
async def test_a_client_that_agrees_to_no_limit_is_held_to_ours(stand: Stand, length: int) -> None:
    assert (await ending_of_an_oversize_token(stand, length))["grpc-status"] == "8"
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])


TOO_LARGE = {
    "entries": [("x-more", "1")] * MAX_ENTRIES,
    "bytes": [("x-more", "x" * 4096)] * 4,
}
PATHS = [*(f"/{PROBE}/{name}" for name in SHAPES), WATCH, "/grpc.health.v1.Health/Check", "/no.such/Rpc"]


@pytest.mark.parametrize("metadata", TOO_LARGE.values(), ids=TOO_LARGE.keys())
@pytest.mark.parametrize("path", PATHS)
async def test_metadata_above_our_limits_is_refused_before_anything_else_looks_at_it(
    stand: Stand, path: str, metadata: Any
) -> None:
    metadata = [("authorization", "Bearer good"), ("x-request-id", "from-the-caller"), *metadata]
    async with open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, path, metadata), client.message(1, b""))
        async with asyncio.timeout(10):
            ending = await client.ending(1)
    assert (ending["grpc-status"], ending["grpc-message"]) == (
        "8",
        "the metadata is too large; send at most 16384 bytes in 100 entries",
    )
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])
    line = await stand.line()
    assert (line["level"], line["reason"]) == ("warning", "METADATA_TOO_LARGE")
    assert line["request_id"] == ending["x-request-id"] != "from-the-caller"


@pytest.mark.parametrize("value", ["x" * 100, b"\xff" * 100, "\u20ac" * 33 + "x"])
def test_metadata_may_be_as_large_as_the_limits_and_no_larger(value: str | bytes) -> None:
    size = ENTRY_OVERHEAD_BYTES + len("x-more") + 100
    metadata = [("x-more", value)] * MAX_ENTRIES
    assert not read_metadata(metadata, MAX_ENTRIES * size).too_large
    assert read_metadata(metadata, MAX_ENTRIES * size - 1).too_large
    assert read_metadata([*metadata, ("", "")], 1 << 20).too_large


def test_what_is_kept_of_the_metadata_is_bounded_under_any_limit() -> None:
    long = "x" * 100_000
    names = ["authorization", "authorization", "authorization", "traceparent", "tracestate", "x-request-id"]
    kept = read_metadata([(name, long) for name in names], 1 << 30)
    assert [len(entry) for entry in kept.authorization] == [MAX_AUTHORIZATION_CHARS + 1] * 2
    assert (kept.traceparent, kept.tracestate, kept.request_id) == ("", "", "")


def entries_in_memory(name: str) -> int:
    """How many entries of metadata with this name this process holds, as gRPC's server decoded them."""
    gc.collect()
    return sum(isinstance(o, tuple) and getattr(o, "key", None) == name for o in gc.get_objects())


@pytest.mark.parametrize("name", SHAPES)
async def test_a_handler_can_read_the_metadata_and_nothing_else_holds_it(stand: Stand, name: str) -> None:
    counts: list[int] = []

    async def look(_: object, context: Any) -> None:
        counts.append(entries_in_memory("x-mark"))
        metadata = context.invocation_metadata()
        counts.append(entries_in_memory("x-mark"))
        assert ("x-mark", "1") in metadata

    stand.probe.on_message = look
    async with open_raw_client(stand.port) as client:
        metadata = [("authorization", "Bearer good"), ("x-mark", "1")]
        await client.send(*client.headers(1, f"/{PROBE}/{name}", metadata), client.message(1, b""))
        async with asyncio.timeout(30):
            assert (await client.ending(1))["grpc-status"] == "0"
    assert counts == [0, 1]


async def test_a_watch_of_health_holds_no_metadata(stand: Stand) -> None:
    async with open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, WATCH, [("x-mark", "1")]), client.message(1, b""))
        async with asyncio.timeout(30):
            await client.answered([1])
        assert entries_in_memory("x-mark") == 0


async def test_few_bytes_on_the_wire_do_not_become_much_memory() -> None:
    """A header in the HPACK table is referenced by one byte each, before the client acknowledges SETTINGS.

    Kept for the life of these streams, the metadata would be 170 MB. A bare grpc.aio server grows by 16 MB.
    """
    streams = range(1, 88, 2)
    async with probe_process() as process, open_raw_client(process.port) as client:
        memory = psutil.Process(process.process.pid).memory_info
        before = memory().rss
        for stream in streams:
            frames = client.headers(stream, WATCH, [("x-more", "x" * 3900)] * 1000)
            await client.send(*frames, client.message(stream, b""))
        async with asyncio.timeout(60):
            await client.answered(streams)
        grown = memory().rss - before
    assert grown < 40e6


@pytest.mark.parametrize("first", [True, False])
async def test_metadata_above_the_limit_is_refused_and_nothing_is_parsed(stand: Stand, first: bool) -> None:
    entries = [("authorization", "Bearer good"), ("x-more", "x" * 20_000)]
    code, _, _ = await stand.client.outcome("OneOne", "a", metadata=entries if first else entries[::-1])
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (stand.probe.parsed, stand.probe.handled) == ([], [])


async def test_a_well_formed_call_by_hand_is_answered(stand: Stand) -> None:
    """What the others send differs from this in one thing only."""
    async with open_raw_client(stand.port) as client:
        frames = client.headers(1, PATH, [("authorization", "Bearer good")])
        await client.send(*frames, client.message(1, Text(value="a").SerializeToString()))
        async with asyncio.timeout(10):
            assert (await client.ending(1))["grpc-status"] == "0"


@pytest.mark.parametrize(
    "path",
    [
        "probe.v1.Probe/OneOne",
        "//probe.v1.Probe/OneOne",
        f"{PATH}/",
        f"{PATH}?x=1",
        "/PROBE.v1.Probe/OneOne",
        "/probe.v1.Probe%2FOneOne",
        "/",
        "",
        "*",
    ],
)
async def test_a_path_that_is_nearly_one_is_unimplemented_and_reaches_no_token_check(
    stand: Stand, path: str
) -> None:
    async with open_raw_client(stand.port) as client:
        frames = client.headers(1, path, [("authorization", "Bearer good")])
        await client.send(*frames, client.message(1, b""))
        async with asyncio.timeout(10):
            ending = await client.ending(1)
    assert (ending["grpc-status"], ending["grpc-message"]) == ("12", "there is no such RPC")
    assert (stand.verifier.asked, stand.probe.parsed) == ([], [])
    # A caller chooses no names in our figures.
    assert [line["method"] for line in stand.lines()] == ["unknown"]


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/probe.v1.Probe/\xc3"])
async def test_a_path_that_is_no_text_does_not_end_the_server(stand: Stand, path: bytes) -> None:
    """grpcio 1.84 and 1.85 stop listening for good; pyproject.toml keeps them out."""
    async with open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, path), client.message(1, b""))
        async with asyncio.timeout(10):
            assert (await client.ending(1))["grpc-status"] != "0"
    assert (await stand.client.outcome("OneOne", "a"))[0] is grpc.StatusCode.OK
    assert stand.verifier.asked == [("good", False)]


async def test_rapid_resets_harm_no_other_caller(stand: Stand) -> None:
    """CVE-2023-44487, bounded: what is taken back never becomes work, above the streams of a connection."""
    answers: list[grpc.StatusCode] = []
    over = asyncio.Event()

    async def call_all_the_while() -> None:
        while not over.is_set() or len(answers) < 20:
            answers.append((await stand.client.outcome("OneOne", "a"))[0])

    async with asyncio.timeout(60):
        calling = asyncio.create_task(call_all_the_while())
        async with open_raw_client(stand.port) as client:
            for count, stream in enumerate(range(1, 4001, 2)):
                frames = client.headers(stream, PATH, [("authorization", "Bearer unknown")])
                await client.send(*frames, client.reset(stream))
                if count % 50 == 0:
                    await reached(lambda: len(answers), len(answers) + 1)
        over.set()
        await calling
    assert set(answers) == {grpc.StatusCode.OK}
    assert stand.probe.parsed == [Text(value="a").SerializeToString()] * len(answers)


async def test_a_request_above_the_limit_is_refused_and_not_parsed(stand: Stand) -> None:
    call = stand.client.call("OneOne", "x" * (4 * 1024 * 1024 + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stand.probe.parsed == []


B64TOKEN = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/")


def reference(entry: str) -> str | None:
    """RFC 6750 section 2.1 and RFC 9110 section 11.1, character by character."""
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
def test_the_grammar_is_that_of_rfc_6750(entry: str) -> None:
    wanted = reference(entry)
    if wanted is None:
        with pytest.raises(InvalidRequest):
            parse_authorization([entry])
    else:
        assert parse_authorization([entry]).value == wanted


@given(st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20)), max_size=3))
def test_only_one_entry_of_text_can_hold_a_token(given_entries: list[str | bytes]) -> None:
    usable = len(given_entries) == 1 and isinstance(given_entries[0], str) and reference(given_entries[0])
    if usable:
        assert parse_authorization(given_entries).value == usable
        return
    with pytest.raises(Refusal) as caught:
        parse_authorization(given_entries)
    assert isinstance(caught.value, InvalidRequest if given_entries else InvalidToken)


def test_an_entry_may_be_as_long_as_the_limit_and_no_longer() -> None:
    entry = "Bearer " + "x" * (MAX_AUTHORIZATION_CHARS - 7)
    with pytest.raises(InvalidToken, match="token_too_long"):  # longer than a token may be, but not too long
        parse_authorization([entry])
    with pytest.raises(InvalidRequest, match="authorization_too_long"):
        parse_authorization([entry + "x"])
