"""Where the tokens of a login are kept: in memory, or in a file that several processes share."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from gatehouse.client.login_errors import TokenFileError
from gatehouse.client.private_files import file_lock, read_private, replace_private
from gatehouse.client.token_endpoint import TokenResponse

MIN_REMAINING_SECONDS = 60.0
LAST_REMAINING_SECONDS = 2.0
"""How long the access token must be valid to be used if the issuer is unavailable."""


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of a user, or of a client.

    Attributes:
        refresh_token: The refresh token to use next; "" if the issuer gave none.
        access_token: The access token that came with it.
        expires_at: End of the access token, in seconds since the epoch.
        scope: Scopes of the access token, separated by spaces; "" if the issuer did not name them.
        client_secret: Secret of the client that refreshes, if the user has typed it.
    """

    refresh_token: str = field(repr=False)
    access_token: str = field(repr=False)
    expires_at: float
    scope: str = ""
    client_secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, response: TokenResponse, now: float, client_secret: str = "") -> Login:
        """Return the login of a token response that arrived at `now`."""
        return cls("", "", now, client_secret=client_secret).renewed(response, now)

    def renewed(self, response: TokenResponse, now: float) -> Login:
        """Return the login after a token response that arrived at `now`.

        Without a new refresh token, the old one stays valid; without scopes, they are those of before.
        """
        return replace(
            self,
            refresh_token=response.refresh_token or self.refresh_token,
            access_token=response.access_token,
            expires_at=now + response.expires_in,
            scope=response.scope or self.scope,
        )

    def response(self, now: float, at_least: float = MIN_REMAINING_SECONDS) -> TokenResponse | None:
        """Return the access token as a response that arrives at `now`, None if it ends within seconds.

        Args:
            now: Seconds since the epoch.
            at_least: Seconds that must remain.
        """
        remaining = self.expires_at - now
        if remaining < at_least:
            return None
        return TokenResponse(self.access_token, "Bearer", remaining, self.scope)


_LOGIN = TypeAdapter(Login)


def dump_login(login: Login) -> bytes:
    """Return a login as JSON."""
    return _LOGIN.dump_json(login)


def parse_login(content: bytes | str) -> Login | None:
    """Return a login from JSON, None if it is not one."""
    try:
        return _LOGIN.validate_json(content)
    except ValidationError:
        return None


class LoginStore(Protocol):
    """Keeps one login. Who refreshes it holds the lock from reading the refresh token to saving the next."""

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Return the lock, which excludes all other users of the same login.

        Raises:
            TokenStoreError: The lock cannot be taken.
        """
        ...

    def load(self) -> Login | None:
        """Return the login, None if there is none.

        Raises:
            TokenStoreError: It cannot be read.
        """
        ...

    def save(self, login: Login | None) -> None:
        """Replace the login; None deletes it.

        Raises:
            TokenStoreError: It cannot be written; the old one is kept.
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

    The file is replaced atomically. The lock is another file, `NAME.lock`, which is not deleted.

    Args:
        path: The file. Its folder is created with mode 0700.
    """

    def __init__(self, path: Path) -> None:
        # A link to the file stays a link.
        self._path = Path(os.path.realpath(path))

    def locked(self) -> AbstractAsyncContextManager[None]:
        """See LoginStore."""
        return file_lock(self._path.with_name(f"{self._path.name}.lock"))

    def load(self) -> Login | None:
        """See LoginStore."""
        content = read_private(self._path)
        if content is None:
            return None
        login = parse_login(content)
        if login is None:
            raise TokenFileError(self._path, "contains no login; delete it and log in again")
        return login

    def save(self, login: Login | None) -> None:
        """See LoginStore."""
        replace_private(self._path, None if login is None else dump_login(login))
