"""Where the tokens of a logged-in user are kept: in memory, or in a file that several processes share."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from gatehouse.client.login_errors import TokenFileError
from gatehouse.client.token_endpoint import TokenResponse

LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of a user.

    Attributes:
        refresh_token: The refresh token to use next.
        access_token: The access token that came with it.
        expires_at: End of the access token, in seconds since the epoch.
        scope: Scopes of the access token, separated by spaces; "" if the issuer did not name them.
    """

    refresh_token: str = field(repr=False)
    access_token: str = field(repr=False)
    expires_at: float
    scope: str = ""

    @classmethod
    def of(cls, response: TokenResponse, refresh_token: str, now: float) -> Login:
        """Return the login of a token response that arrived at `now`."""
        return cls(refresh_token, response.access_token, now + response.expires_in, response.scope)


_LOGIN = TypeAdapter(Login)


class LoginStore(Protocol):
    """Keeps one login. Who refreshes it holds the lock from reading the refresh token to saving the next."""

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Return the lock, which excludes all other users of the same login.

        Raises:
            TokenFileError: The lock cannot be taken.
        """
        ...

    def load(self) -> Login | None:
        """Return the login, None if there is none.

        Raises:
            TokenFileError: It cannot be read.
        """
        ...

    def save(self, login: Login | None) -> None:
        """Replace the login; None deletes it.

        Raises:
            TokenFileError: It cannot be written; the old one is kept.
        """
        ...


class MemoryStore:
    """Keeps a login as long as the program runs."""

    def __init__(self) -> None:
        self._login: Login | None = None
        self._lock = asyncio.Lock()

    def locked(self) -> AbstractAsyncContextManager[None]:
        """See LoginStore."""
        return self._lock

    def load(self) -> Login | None:
        """See LoginStore."""
        return self._login

    def save(self, login: Login | None) -> None:
        """See LoginStore."""
        self._login = login


class FileStore:
    """Keeps a login in a file that only its owner can read, and that processes can share.

    The file is replaced atomically. The lock is a second file beside it, `NAME.lock`, which stays.

    Args:
        path: The file. Its folder is created with mode 0700.
    """

    def __init__(self, path: Path) -> None:
        # A link to the file stays a link.
        self._path = Path(os.path.realpath(path))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """See LoginStore. The operating system releases the lock of a process that ends."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TokenFileError(lock, error.strerror or "cannot be opened") from None
        try:
            await _lock(descriptor, lock)
            yield
        finally:
            os.close(descriptor)

    def load(self) -> Login | None:
        """See LoginStore."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TokenFileError(self._path, error.strerror or "cannot be read") from None
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_mode & 0o077:
                raise TokenFileError(self._path, "other users can access it; run chmod 600, or log in again")
            content = file.read()
        try:
            return _LOGIN.validate_json(content)
        except ValidationError:
            raise TokenFileError(self._path, "contains no login; delete it and log in again") from None

    def save(self, login: Login | None) -> None:
        """See LoginStore."""
        try:
            if login is None:
                self._path.unlink(missing_ok=True)
            else:
                self._replace(_LOGIN.dump_json(login))
        except OSError as error:
            raise TokenFileError(self._path, error.strerror or "cannot be written") from None

    def _replace(self, content: bytes) -> None:
        # mkstemp creates the file with mode 0600.
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


async def _lock(descriptor: int, path: Path) -> None:
    """Lock a file without blocking the event loop."""
    try:
        async with asyncio.timeout(LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    return
    except TimeoutError:
        raise TokenFileError(path, f"locked by another process for {LOCK_SECONDS:.0f} s") from None
    except OSError as error:
        raise TokenFileError(path, error.strerror or "cannot be locked") from None
