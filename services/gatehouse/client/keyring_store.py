"""Logins in the keyring of the system: Keychain, Secret Service, KWallet, or any other backend of `keyring`.

`keyring` is optional: `pip install 'gatehouse[keyring]'`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gatehouse.client.login_errors import TokenStoreError
from gatehouse.client.login_store import Login, dump_login, parse_login
from gatehouse.client.private_files import file_lock

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "gatehouse"
INSTALL = "install support for it with pip install 'gatehouse[keyring]'"
# Backends below this are not for secrets, such as one that fails, or keeps plain text.
_MIN_PRIORITY = 1
T = TypeVar("T")


class KeyringStore:
    """A LoginStore in the keyring of the system. Processes share it under the lock of a file.

    Args:
        entry: Name of the entry, which the user sees there.
        lock: The file to lock.
    """

    def __init__(self, entry: str, lock: Path) -> None:
        self._entry = entry
        self._lock = lock

    def locked(self) -> AbstractAsyncContextManager[None]:
        """See LoginStore."""
        return file_lock(self._lock)

    def load(self) -> Login | None:
        """See LoginStore."""
        content = _ask(lambda backend: backend.get_password(SERVICE, self._entry))
        if content is None:
            return None
        login = parse_login(content)
        if login is None:
            raise TokenStoreError(f"the keyring entry {self._entry} contains no login; log in again")
        return login

    def save(self, login: Login | None) -> None:
        """See LoginStore."""
        if login is None:
            _ask(self._delete)
        else:
            content = dump_login(login).decode()
            _ask(lambda backend: backend.set_password(SERVICE, self._entry, content))

    def _delete(self, backend: KeyringBackend) -> None:
        if backend.get_password(SERVICE, self._entry) is not None:
            backend.delete_password(SERVICE, self._entry)


def _ask(operation: Callable[[KeyringBackend], T]) -> T:
    try:
        import keyring  # noqa: PLC0415 - optional, and slow to import

        return operation(keyring.get_keyring())
    except ImportError:
        raise TokenStoreError(f"the login is in the keyring of the system; {INSTALL}") from None
    except Exception as error:  # noqa: BLE001 - backends raise errors of their own, and texts may have secrets
        raise TokenStoreError(
            f"the keyring of the system cannot be used ({type(error).__name__}); unlock it"
        ) from None


def keyring_problem(entry: str) -> str:
    """Return why the keyring of the system cannot store a login, "" if it can.

    Args:
        entry: Entry to write, read and delete as a trial.
    """
    try:
        import keyring  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return INSTALL
    try:
        if keyring.get_keyring().priority < _MIN_PRIORITY:
            return "there is none"
        keyring.set_password(SERVICE, entry, SERVICE)
        works = keyring.get_password(SERVICE, entry) == SERVICE
        keyring.delete_password(SERVICE, entry)
    except Exception as error:  # noqa: BLE001 - see _ask
        return f"it fails with {type(error).__name__}"
    return "" if works else "it does not keep what is written"
