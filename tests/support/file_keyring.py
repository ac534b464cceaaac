"""A backend of `keyring` that keeps its entries in a file, for tests and the processes that they start."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringError, PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Keeps its entries in the file that TEST_KEYRING names; it is locked if that is a folder."""

    priority = 5

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # it is of keyring

    def get_password(self, service: str, username: str) -> str | None:
        """Return the password of an entry."""
        return self._read().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Set the password of an entry."""
        self._write(self._read() | {f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        """Delete an entry."""
        entries = self._read()
        if entries.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError("not found")
        self._write(entries)

    def _read(self) -> dict[str, str]:
        if self._path.is_dir():
            raise KeyringError("locked")
        entries: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return entries

    def _write(self, entries: dict[str, str]) -> None:
        self._path.write_text(json.dumps(entries))

    @property
    def _path(self) -> Path:
        return Path(os.environ["TEST_KEYRING"])
