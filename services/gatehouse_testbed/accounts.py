"""The account that runs PostgreSQL, which refuses to run as root, and what it can reach."""

from __future__ import annotations

import os
import pwd
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gatehouse_testbed.errors import TestbedError

_ACCOUNT = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine; `differs` says whether it is another one than that of this process."""

    uid: int
    gid: int
    differs: bool


def find_account() -> Account:
    """Return the account for PostgreSQL: the current user, or `nobody` for root.

    Raises:
        TestbedError: The current user is root, and `nobody` does not exist.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), differs=False)
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise TestbedError(
            f"PostgreSQL does not run as root, and the user {_ACCOUNT} does not exist; run as another user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, differs=True)


def reachable(path: Path, account: Account) -> bool:
    """Return whether an account can enter all parents of a path. Their modes are never changed."""
    return not account.differs or all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def temporary_folder(account: Account) -> Path:
    """Return the folder for temporary files: that of `TMPDIR`, unless the account cannot reach it.

    Raises:
        TestbedError: There is none.
    """
    try:
        folders = [Path(tempfile.gettempdir())]
    except FileNotFoundError as error:
        raise TestbedError(f"{error.strerror}; set TMPDIR to a folder with free space") from None
    if account.differs:
        folders += [Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp is used
    for folder in folders:
        if folder.is_dir() and reachable(folder / "x", account) and os.access(folder, os.W_OK):
            return folder
    raise TestbedError(
        f"{folders[0]}: the user {_ACCOUNT} cannot reach it; set TMPDIR to a folder that it can"
    )
