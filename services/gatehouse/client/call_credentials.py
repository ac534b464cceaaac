"""Call credentials for gRPC that get their token from a TokenSource."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

import grpc

from gatehouse.client.token_source import TokenSource
from gatehouse.oauth import OAuthError

NO_TOKEN = "no access token"  # noqa: S105 - a text, not a secret
"""How the details of a call begin that was not sent because there is no token."""


class Submitter(Protocol):
    """Runs coroutines on the event loop of a token source, such as BackgroundLoop."""

    def submit(self, coroutine: Coroutine[Any, Any, str]) -> Future[str]:
        """Start a coroutine and return the future of its result."""
        ...


class LoopSubmitter:
    """Runs coroutines on an event loop that runs already, such as that of a grpc.aio program."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, coroutine: Coroutine[Any, Any, str]) -> Future[str]:
        """See Submitter."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


class NoTokenError(Exception):
    """There is no access token. gRPC copies the text into the status, so it holds no secret."""


class TokenCallCredentials(grpc.AuthMetadataPlugin):
    """Add the access token of a TokenSource to each call (RFC 6750 section 2.1).

    For channels that you open yourself, with `grpc` or `grpc.aio`:
    `grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(TokenCallCredentials(...)))`. gRPC
    sends call credentials over TLS only.

    Args:
        tokens: Supplies the tokens.
        runner: Runs the token source: a BackgroundLoop, or in an asyncio program its event loop.
    """

    def __init__(self, tokens: TokenSource, runner: Submitter | asyncio.AbstractEventLoop) -> None:
        self._tokens = tokens
        self._runner = LoopSubmitter(runner) if isinstance(runner, asyncio.AbstractEventLoop) else runner

    def __call__(
        self,
        context: grpc.AuthMetadataContext,  # noqa: ARG002 - the token is the same for all methods
        callback: grpc.AuthMetadataPluginCallback,
    ) -> None:
        """See grpc.AuthMetadataPlugin. Return at once; the token arrives later, in another thread."""

        def send(done: Future[str]) -> None:
            try:
                token = done.result()
            except BaseException as error:  # noqa: BLE001 - gRPC would wait for the callback until the deadline
                callback((), NoTokenError(reason_of(error)))
            else:
                callback((("authorization", f"Bearer {token}"),), None)

        try:
            asking = self._runner.submit(self._tokens.token())
        except RuntimeError:
            callback((), NoTokenError("the event loop of the token source has ended"))
        else:
            asking.add_done_callback(send)


def reason_of(error: BaseException) -> str:
    """Return why there is no token; the text of foreign errors may contain secrets."""
    return f"{NO_TOKEN}: {error if isinstance(error, OAuthError) else type(error).__name__}"
