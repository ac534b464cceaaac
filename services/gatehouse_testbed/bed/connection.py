"""A TCP connection from a client to a part of the test bed, as faults of the network affect it."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from gatehouse_testbed.bed.faults import NetworkFault

# A full connection is not read, as if the window of its receiver were closed.
_MAX_WAITING_BYTES = 1 << 20
_SENT_CHECK_SECONDS = 0.005
# A socket that is closed without waiting for unsent data sends RST.
_NO_LINGER = struct.pack("ii", 1, 0)

ConnectPart = Callable[["Connection"], Awaitable[None]]


class Connection:
    """A connection of a client.

    Args:
        opened: The open connections, to which it belongs while the client is connected.
        connect_part: Connects `part` to the part.
        fault: What affects it.

    Attributes:
        client: The end at which the client is.
        part: The end at which the part is.
        fault: What affects it now.
        ended: Is done when both ends are closed.
    """

    def __init__(
        self, opened: set[Connection], connect_part: ConnectPart, fault: NetworkFault | None
    ) -> None:
        self.client, self.part = End(self), End(self)
        self.client.other, self.part.other = self.part, self.client
        self.fault: NetworkFault | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self._opened = opened
        self._connect_part = connect_part
        self._connecting: asyncio.Task[None] | None = None
        self._is_closed = False
        self._bytes_left: int | None = None
        if fault is not None:
            self._meet(fault)

    def client_connected(self) -> None:
        """Connect the other end, unless a fault closes all connections."""
        self._opened.add(self)
        if self.fault is not None and self.fault.closes:
            self.reset()
        else:
            # Kept, because the event loop has only a weak reference to a task.
            self._connecting = asyncio.create_task(self._connect())

    def part_connected(self) -> None:
        """Forward what has arrived meanwhile, unless the connection has been closed."""
        # Connecting is not cancelled instead: uvloop may then never report that this end is closed.
        if self._is_closed:
            self.close()
        self.client.forward()

    async def _connect(self) -> None:
        try:
            await self._connect_part(self)
        except OSError:  # the part is down: so is this connection
            self.close()

    def lost(self, error: Exception | None) -> None:
        """Go on after an end is closed; an end that the peer has reset resets the other one."""
        if isinstance(error, ConnectionResetError):
            self.reset()
        else:
            self.close()
        if not self.ended.done() and self.client.transport is None and self.part.transport is None:
            self.ended.set_result(None)
            self._opened.discard(self)

    def change(self, fault: NetworkFault | None) -> None:
        """Be affected by another fault from now on, or by none."""
        # A certificate that was presented cannot be replaced.
        before, self.fault, self._bytes_left = self.fault, None, None
        if fault is not None:
            self._meet(fault)
        if any(f is not None and (f.closes or f.certificate) for f in (before, fault)):
            self.reset()
        for end in (self.client, self.part):
            end.forward()

    def _meet(self, fault: NetworkFault) -> None:
        self.fault = fault
        self._bytes_left = fault.reset_after_bytes

    def allow(self, end: End, data: bytes) -> bytes:
        """Return what an end may still receive of `data`."""
        if end is self.part or self._bytes_left is None:
            return data
        allowed = data[: self._bytes_left]
        self._bytes_left -= len(allowed)
        if self._bytes_left == 0:
            self._reset_when_sent()
        return allowed

    def _reset_when_sent(self) -> None:
        """Reset the connection as soon as what the client may receive is sent."""
        transport = self.client.transport
        loop = asyncio.get_running_loop()
        if transport is None or not transport.get_write_buffer_size():
            loop.call_soon(self.reset)
        else:
            loop.call_later(_SENT_CHECK_SECONDS, self._reset_when_sent)

    def reset(self) -> None:
        """Close both ends with RST."""
        for end in (self.client, self.part):
            if end.transport is not None:
                if not end.transport.is_closing():
                    opened = end.transport.get_extra_info("socket")
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                end.transport.abort()
        self.close()

    def close(self) -> None:
        """Close both ends."""
        self._is_closed = True
        for end in (self.client, self.part):
            if end.transport is not None:
                end.transport.close()


class End(asyncio.Protocol):
    """An end of a connection, which forwards what it receives to the other end.

    Args:
        connection: The connection.

    Attributes:
        other: The other end.
        transport: None before the end is connected, and after it is closed.
        is_full: Whether it has more to send than the peer takes.
        has_ended: Whether everything that it received was forwarded.
    """

    def __init__(self, connection: Connection) -> None:
        self.other: End
        self.transport: asyncio.Transport | None = None
        self.is_full = False
        self.has_ended = False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # What the other end has not received yet, with the time of its arrival; b"" means the end.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._line_free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self.transport = cast("asyncio.Transport", transport)  # of a stream
        if self is self._connection.client:
            self._connection.client_connected()
        else:
            self._connection.part_connected()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end too."""
        self.transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._connection.lost(exc)

    def data_received(self, data: bytes) -> None:
        """Forward data."""
        self._waiting.append((self._loop.time(), data))
        self._waiting_bytes += len(data)
        self.forward()

    def eof_received(self) -> bool:
        """Forward that no more data follows; data of the other direction may."""
        self._waiting.append((self._loop.time(), b""))
        self.forward()
        return self.transport is not None and self.transport.can_write_eof()

    def pause_writing(self) -> None:
        """Let the other end read no more until this end has sent what it has."""
        self.is_full = True
        self.other.forward()

    def resume_writing(self) -> None:
        """Let the other end read again."""
        self.is_full = False
        self.other.forward()

    def forward(self) -> None:
        """Forward what is due now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.other.transport is not None:
            due = self._due_at()
            if due > self._loop.time():
                if due < math.inf:
                    self._timer = self._loop.call_at(due, self.forward)
                break
            self._line_free_at = due
            self._send(self.other.transport)
        if self.transport is not None and not self.transport.is_closing():
            if self._waiting_bytes > _MAX_WAITING_BYTES or self.other.is_full:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _due_at(self) -> float:
        """Return when the first piece of what is waiting has crossed the line."""
        fault = self._connection.fault
        if fault is None:
            return 0.0
        if fault.blackhole:
            return math.inf
        arrived, data = self._waiting[0]
        starts = max(arrived + fault.delay_seconds, self._line_free_at)
        if fault.bytes_per_second is None:
            return starts
        return starts + min(len(data), fault.piece_bytes) / fault.bytes_per_second

    def _send(self, target: asyncio.Transport) -> None:
        arrived, data = self._waiting.popleft()
        fault = self._connection.fault
        if fault is not None and len(data) > fault.piece_bytes:
            self._waiting.appendleft((arrived, data[fault.piece_bytes :]))
            data = data[: fault.piece_bytes]
        self._waiting_bytes -= len(data)
        if target.is_closing():
            return
        if data:
            target.write(self._connection.allow(self.other, data))
            return
        self.has_ended = True
        if self.other.has_ended or not target.can_write_eof():
            self._connection.close()
        else:
            target.write_eof()
