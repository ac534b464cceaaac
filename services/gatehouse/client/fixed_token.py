"""Token sources for tokens that something else obtains: a fixed one, and one in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gatehouse.client.login_errors import TokenFileError
from gatehouse.oauth import is_b64token
from gatehouse.settings import ConfigurationError, FileCheck, read_secret_file

CHECK_SECONDS = 1.0


class StaticToken:
    """A TokenSource with one token, for tests and short programs.

    Raises:
        ValueError: The token cannot be sent in a header (RFC 6750 section 2.1).
    """

    def __init__(self, token: str) -> None:
        if not is_b64token(token):
            raise ValueError("token: not a bearer token (RFC 6750 section 2.1)")
        self._token = token

    async def token(self) -> str:
        """See TokenSource.token."""
        return self._token

    def invalidate(self, token: str) -> None:
        """Do nothing: there is no other token."""


class FileToken:
    """A TokenSource that reads the token from a file, again when the file changes.

    For workload identity, such as a projected service account token of Kubernetes. While a changed file
    cannot be used, perhaps because it is being written, the last token is used.

    Args:
        path: The file. It contains the token and nothing else.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._file = FileCheck([path], CHECK_SECONDS, monotonic)
        self._token = ""

    async def token(self) -> str:
        """See TokenSource.token.

        Raises:
            TokenFileError: The file cannot be used.
        """
        if self._file.changed() or not self._token:
            try:
                self._token = self._read()
            except TokenFileError:
                if not self._token:
                    raise
            else:
                self._file.accept()
        return self._token

    def invalidate(self, token: str) -> None:
        """Read the file again before the next call; see TokenSource.invalidate."""
        if token == self._token:
            self._token = ""

    def _read(self) -> str:
        try:
            token = read_secret_file(self._path, "token")
        except ConfigurationError as error:
            raise TokenFileError(self._path, str(error)) from None
        if not is_b64token(token):
            raise TokenFileError(self._path, "contains no bearer token (RFC 6750 section 2.1)")
        return token
