"""A channel that trusts new certificate authorities when their file changes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Self

import grpc
import grpc.aio

from gatehouse.rpc import TlsError
from gatehouse.settings import FileCheck

_logger = logging.getLogger(__name__)


class ReloadingChannel(grpc.aio.Channel):
    """Opens a channel, and another one for new calls when a file changes.

    gRPC reads the authorities when a channel is opened, and never again. Calls in progress stay on their
    channel, which is closed after its last call.

    Args:
        open_channel: Opens a channel; raises TlsError if the file cannot be used.
        file: Checks whether the file has changed. It is checked when a call starts.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel], file: FileCheck) -> None:
        self._open = open_channel
        self._file = file
        self._refused = ""
        self._channel = open_channel()
        self._channels = weakref.WeakSet([self._channel])

    def current(self) -> grpc.aio.Channel:
        """Return the channel for new calls."""
        if self._file.changed():
            try:
                self._channel = self._open()
            except TlsError as error:  # perhaps half-written
                if str(error) != self._refused:
                    self._refused = str(error)
                    _logger.error("certificate authorities refused: %s", error)  # noqa: TRY400 - expected
            else:
                self._refused = ""
                self._file.accept()
                self._channels.add(self._channel)
                _logger.info("certificate authorities reloaded")
        return self._channel

    async def __aenter__(self) -> Self:
        """See grpc.aio.Channel."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """See grpc.aio.Channel."""
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        for channel in list(self._channels):
            await channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - as in grpc.aio
        """See grpc.aio.Channel."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self.current().channel_ready()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.stream_stream(*arguments, **named))


class _Method:
    """A method that is called on the current channel."""

    def __init__(self, channel: ReloadingChannel, bind: Callable[[grpc.aio.Channel], Any]) -> None:
        self._channel = channel
        self._bind = bind
        self._bound_to: grpc.aio.Channel | None = None
        self._call: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        current = self._channel.current()
        if current is not self._bound_to:
            self._bound_to, self._call = current, self._bind(current)
        return self._call(*arguments, **named)
