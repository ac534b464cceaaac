"""The folder of one run, with its secrets and data. Nothing of it stays, not even after SIGKILL.

A run holds a lock in its folder. The next run removes the folders whose lock nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gatehouse_testbed.accounts import Account, find_account, temporary_folder

_PREFIX = "gatehouse-"
_LOCK = "lock"
_END_SECONDS = 10.0
_SHARED_MEMORY = Path("/proc/sysvipc/shm")


@contextmanager
def run_folder(parent: Path | None = None) -> Iterator[Path]:
    """Create a folder for files; at the end, remove it and everything that uses it.

    As root, the account of PostgreSQL can enter it but not list it.

    Args:
        parent: Where to create it; the folder for temporary files if None.

    Raises:
        TestbedError: There is no folder for temporary files.
    """
    account = find_account()
    parent = parent or temporary_folder(account)
    for abandoned in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        _remove_abandoned(abandoned, account)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # Renamed when it is locked, so that no other run can take the lock before.
    part = folder / f".{_LOCK}"
    with part.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        part.rename(folder / _LOCK)
        try:
            if account.differs:
                folder.chmod(0o711)
            yield folder
        finally:
            _remove(folder, account)


def _remove_abandoned(lock: Path, account: Account) -> None:
    # Another user, or another run, may remove the folder at the same time.
    with contextlib.suppress(OSError):
        if lock.parent.is_symlink() or lock.parent.stat().st_uid != os.geteuid():
            return
        with lock.open("r+", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock.parent, account)


def _remove(folder: Path, account: Account) -> None:
    end_processes(folder)
    for file in folder.glob("*/postmaster.pid"):
        _release_shared_memory(file, account)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """Kill the processes of the test bed and the PostgreSQL servers that have files in `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            modules = [part for part in command if part.startswith("gatehouse_testbed.")]
            if (modules or process.name() == "postgres") and any(
                f"{folder}/" in f"{part}/" for part in command
            ):
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=_END_SECONDS)


def _release_shared_memory(pid_file: Path, account: Account) -> None:
    """Release the shared memory of a server that was killed: a segment of System V, named in its file."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        key, segment = pid_file.read_text(encoding="utf-8").splitlines()[6].split()
        # Numbers are used again, for example after a restart of the machine.
        rows = (row.split()[:2] for row in _SHARED_MEMORY.read_text(encoding="ascii").splitlines())
        if [key, segment] in rows:
            # Only its owner may remove it.
            command = ["ipcrm", "-m", segment]
            subprocess.run(command, check=False, user=account.uid, group=account.gid)  # noqa: S603 - fixed
