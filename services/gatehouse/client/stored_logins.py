"""The logins of the command line, by name; their tokens are in the keyring or in files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gatehouse.client.login_errors import LoginRequired, TokenFileError
from gatehouse.client.login_folder import LOGIN_FILE
from gatehouse.client.login_store import FileStore, LoginStore
from gatehouse.client.private_files import read_private, replace_private
from gatehouse.client.registration import Registration
from gatehouse.settings import Section

Flow = Literal["browser", "device", "client_credentials"]
Place = Literal["keyring", "file"]


class StoredLogin(Section):
    """What is known about a login without its tokens."""

    registration: Registration
    """The client, and what was requested."""
    flow: Flow
    """How the user or client logs in."""
    place: Place
    """Where the tokens are."""
    user: str = ""
    """Who logged in, for people: user name, email address or name; "" for a client."""


class StoredLogins:
    """The logins in a folder.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.realpath(folder))

    def names(self) -> list[str]:
        """Return the names of all logins."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{LOGIN_FILE}"))

    def usable(self) -> dict[str, StoredLogin]:
        """Return all logins by name, without those that cannot be read."""
        found: dict[str, StoredLogin] = {}
        for name in self.names():
            with suppress(TokenFileError):
                login = self.load(name)
                if login is not None:
                    found[name] = login
        return found

    def load(self, name: str) -> StoredLogin | None:
        """Return a login, None if there is none of this name.

        Raises:
            TokenFileError: It cannot be read.
        """
        path = self._path(name)
        content = read_private(path)
        if content is None:
            return None
        try:
            return StoredLogin.model_validate_json(content)
        except ValidationError:
            raise TokenFileError(path, "not a login of this version; delete it and log in again") from None

    def require(self, name: str) -> StoredLogin:
        """Return a login.

        Raises:
            LoginRequired: There is none of this name.
            TokenFileError: It cannot be read.
        """
        login = self.load(name)
        if login is None:
            error = LoginRequired()
            if self.names():
                error.add_note(f"there are logins named {', '.join(self.names())}")
            raise error
        return login

    def save(self, name: str, login: StoredLogin) -> None:
        """Replace a login.

        Raises:
            TokenFileError: It cannot be written.
        """
        replace_private(self._path(name), login.model_dump_json().encode())

    def delete(self, name: str) -> None:
        """Delete a login, but not its tokens. Its lock stays, because others may wait for it."""
        replace_private(self._path(name), None)

    def store(self, name: str, place: Place) -> LoginStore:
        """Return where the tokens of a login are."""
        tokens = self.tokens_file(name)
        if place == "file":
            return FileStore(tokens)
        from gatehouse.client.keyring_store import KeyringStore  # noqa: PLC0415 - most logins need no keyring

        # Entries are named by the folder, so that two entries with one name have one lock.
        return KeyringStore(self.keyring_entry(name), tokens.with_name(f"{tokens.name}.lock"))

    def tokens_file(self, name: str) -> Path:
        """Return the file with the tokens of a login, if they are in a file."""
        return self._folder / name / "tokens.json"

    def keyring_entry(self, name: str) -> str:
        """Return the name of the entry of a login in the keyring."""
        return str(self._folder / name)

    def _path(self, name: str) -> Path:
        return self._folder / name / LOGIN_FILE
