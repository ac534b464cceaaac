"""Secrets in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from gatehouse.settings.errors import ConfigurationError


def read_secret_file(file: Path, name: str) -> str:
    """Return the content of a file without surrounding white space.

    Args:
        file: The file that contains the secret.
        name: Name of the setting, for errors.

    Raises:
        ConfigurationError: The file cannot be read, is not text, or is empty.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot read {file} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: {file} is not UTF-8 text") from None
    if not secret:
        raise ConfigurationError(f"{name}: {file} is empty; write the secret into it")
    return secret


def follow_secret(
    setting: str, value: SecretStr | None, file: Path | None = None
) -> Callable[[], str | None]:
    """Return a function that returns a setting in clear, read again if it is from a file.

    Args:
        setting: Name of the setting, such as `users__database_password`.
        value: Its value when the settings were loaded. It stays while the file cannot be read.
        file: The file that it is from; None for the one in the secrets directory, if it is there.
    """
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    last = None if value is None else value.get_secret_value()
    if last is None or (file is None and directory is None):
        return lambda: last
    path = file or Path(directory or "", f"gatehouse_{setting}")

    def read() -> str | None:
        nonlocal last
        with suppress(ConfigurationError):  # while it is being replaced
            last = read_secret_file(path, setting)
        return last

    if file is not None:
        return read
    try:
        from_file = read_secret_file(path, setting) == last
    except ConfigurationError:
        from_file = False
    return read if from_file else lambda: last
