"""HTTP/2 written by hand, for what a gRPC client would never send."""

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
    """A connection that never acknowledges SETTINGS, so that the server's limits are never agreed on."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)
    decoder: hpack.Decoder = field(default_factory=lambda: hpack.Decoder(max_header_list_size=1 << 24))
    goaway: bool = False

    def headers(
        self, stream: int, path: str | bytes, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> list[Frame]:
        """Makes the frames that open a call."""
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
        """Makes the frame of the one message of a call."""
        data = b"\0" + len(raw).to_bytes(4, "big") + raw
        return DataFrame(stream, data=data, flags=["END_STREAM"])

    @staticmethod
    def reset(stream: int) -> Frame:
        """Makes the frame that takes a call back."""
        return RstStreamFrame(stream, error_code=8)

    async def send(self, *frames: Frame) -> None:
        """Sends frames; a server that has hung up is seen when reading."""
        self.writer.write(b"".join(frame.serialize() for frame in frames))
        with suppress(ConnectionError):
            await self.writer.drain()

    async def _frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        frame, length = Frame.parse_frame_header(memoryview(head))
        frame.parse_body(memoryview(await self.reader.readexactly(length)))
        return frame

    async def answered(self, streams: Iterable[int]) -> None:
        """Read until the server has begun to answer, or has ended, every one of `streams`.

        The headers are not decoded, so `ending` cannot be used after it.
        """
        waiting = set(streams)
        while waiting:
            frame = await self._frame()
            if isinstance(frame, (HeadersFrame, RstStreamFrame)):
                waiting.discard(frame.stream_id)

    async def ending(self, stream: int) -> dict[str, str]:
        """Reads until a call is over; returns its headers and trailers, or how the connection broke."""
        found: dict[str, str] = {}
        block = b""
        while True:
            try:
                frame = await self._frame()
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
    """Opens a plaintext connection to a server on loopback and sends the preface."""
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
