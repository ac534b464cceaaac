"""Files that only their owner can read: replaced atomically, and locked between processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gatehouse.client.login_errors import TokenFileError

LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.02


@asynccontextmanager
async def file_lock(lock: Path) -> AsyncIterator[None]:
    """Hold a lock that excludes other tasks and processes. It does not block the event loop.

    The operating system releases the lock of a process that ends. The file stays.

    Args:
        lock: The file to lock. Its folder is created with mode 0700.

    Raises:
        TokenFileError: The lock cannot be taken.
    """
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TokenFileError(lock, error.strerror or "cannot be opened") from None
    try:
        await _lock(descriptor, lock)
        yield
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes | None:
    """Return the content of a file, None if there is no such file.

    Raises:
        TokenFileError: It cannot be read, or other users can access it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenFileError(path, error.strerror or "cannot be read") from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            raise TokenFileError(path, "other users can access it; run chmod 600, or log in again")
        return file.read()


def replace_private(path: Path, content: bytes | None) -> None:
    """Replace the content of a file atomically, with mode 0600; None deletes the file.

    Raises:
        TokenFileError: It cannot be written; the old content is kept.
    """
    try:
        if content is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, content)
    except OSError as error:
        raise TokenFileError(path, error.strerror or "cannot be written") from None


def _replace(path: Path, content: bytes) -> None:
    # mkstemp creates the file with mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


async def _lock(descriptor: int, path: Path) -> None:
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
