"""A raw HTTP/2 client, for requests that a gRPC client never sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 16_384


@dataclass
class RawClient:
    """A connection that never acknowledges SETTINGS, so the limits in them do not apply to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)
    decoder: hpack.Decoder = field(default_factory=lambda: hpack.Decoder(max_header_list_size=1 << 24))
    goaway: bool = False

    def headers(
        self, stream: int, path: str | bytes, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> list[Frame]:
        """Return the frames that start a call."""
        block = self.encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                *metadata,
            ],
            huffman=False,
        )
        parts = [block[i : i + MAX_FRAME] for i in range(0, len(block), MAX_FRAME)]
        frames: list[Frame] = [HeadersFrame(stream, data=parts[0])]
        frames += [ContinuationFrame(stream, data=part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        return frames

    @staticmethod
    def message(stream: int, raw: bytes) -> Frame:
        """Return the frame with the only message of a call."""
        data = b"\0" + len(raw).to_bytes(4, "big") + raw
        return DataFrame(stream, data=data, flags=["END_STREAM"])

    @staticmethod
    def reset(stream: int) -> Frame:
        """Return the frame that cancels a call."""
        return RstStreamFrame(stream, error_code=8)

    async def send(self, *frames: Frame) -> None:
        """Send frames; a closed connection is detected when reading."""
        self.writer.write(b"".join(frame.serialize() for frame in frames))
        with suppress(ConnectionError):
            await self.writer.drain()

    async def _read_frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        frame, length = Frame.parse_frame_header(memoryview(head))
        frame.parse_body(memoryview(await self.reader.readexactly(length)))
        return frame

    async def wait_for_responses(self, streams: Iterable[int]) -> None:
        """Read until the server has responded to, or has ended, each of `streams`.

        The headers are not decoded, so `outcome` cannot be used afterwards.
        """
        waiting = set(streams)
        while waiting:
            frame = await self._read_frame()
            if isinstance(frame, (HeadersFrame, RstStreamFrame)):
                waiting.discard(frame.stream_id)

    async def outcome(self, stream: int) -> dict[str, str]:
        """Read until a call has ended; return its headers and trailers, or how it was cut."""
        found: dict[str, str] = {}
        block = b""
        while True:
            try:
                frame = await self._read_frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                return {"ended": "connection"}
            if isinstance(frame, GoAwayFrame):
                self.goaway = True
            if isinstance(frame, (HeadersFrame, ContinuationFrame)):
                block += frame.data
                if "END_HEADERS" in frame.flags:
                    decoded = self.decoder.decode(block)
                    block = b""
                    if frame.stream_id == stream:
                        found |= {str(name): str(value) for name, value in decoded}
            if frame.stream_id == stream:
                if isinstance(frame, RstStreamFrame):
                    return {**found, "ended": "reset"}
                if "END_STREAM" in frame.flags:
                    return found


@asynccontextmanager
async def open_raw_client(port: int) -> AsyncIterator[RawClient]:
    """Open a plaintext connection to a server on loopback, and send the preface."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RawClient(reader, writer)
    writer.write(PREFACE)
    await client.send(SettingsFrame(0))
    try:
        yield client
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
