"""Secrets in files."""

from __future__ import annotations

from pathlib import Path

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
