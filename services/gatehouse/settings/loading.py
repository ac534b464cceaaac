"""Load settings from the environment and the secrets directory; refuse names that do not exist.

Names have the prefix `GATEHOUSE_` and `__` between levels, such as `GATEHOUSE_SERVER__HOST`. A secret can
also come from a file: the setting with the suffix `_FILE` names it, or the directory `GATEHOUSE_SECRETS_DIR`
contains a file with the name of the setting in lower case.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from gatehouse.settings.sections import ServiceSettings, Settings

S = TypeVar("S", bound=Settings)

_UNKNOWN = "unknown setting; `gatehouse config` lists all settings"
_OTHER_NAMES = {"GATEHOUSE_SECRETS_DIR", "GATEHOUSE_PROFILE", "GATEHOUSE_TRACEBACK"}


class ConfigurationError(Exception):
    """The configuration is invalid; the message is one line that says what, where and how to fix it."""


def load_settings(model: type[S]) -> S:
    """Load the settings.

    Args:
        model: The settings class, composed of the shared sections and those of the services.

    Raises:
        ConfigurationError: A setting is unknown, was renamed, or has an invalid value.
    """
    _refuse_unknown_names(model, os.environ)
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    try:
        if directory:
            _refuse_unknown_names(model, (path.name for path in Path(directory).iterdir()))
        return model()
    except ValidationError as error:
        raise ConfigurationError(validation_message(error, "GATEHOUSE_")) from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"GATEHOUSE_{field[1].upper()}" if field else f"GATEHOUSE_SECRETS_DIR: {directory}"
        raise ConfigurationError(f'{name}: must be JSON, such as {{"name": "value"}}') from None
    except OSError as error:
        raise ConfigurationError(
            f"GATEHOUSE_SECRETS_DIR: cannot read {error.filename} ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"GATEHOUSE_SECRETS_DIR: {directory} contains a file that is not UTF-8 text"
        ) from None


def _refuse_unknown_names(model: type[Settings], names: Iterable[str]) -> None:
    """Raise for a name that can only be a renamed or misspelt setting.

    A name without levels may belong to another program: a variable of the realm file such as
    GATEHOUSE_API_SECRET, or what Kubernetes sets for a service called gatehouse.
    """
    known = set(_names(model))
    for name in names:
        if not name.upper().startswith("GATEHOUSE_") or name in _OTHER_NAMES:
            continue
        setting = name[len("GATEHOUSE_") :].lower()
        new_name = _renamed(model, setting)
        if new_name:
            raise ConfigurationError(f"{name}: was renamed; use GATEHOUSE_{new_name.upper()}")
        if setting in known:
            continue
        close = difflib.get_close_matches(setting, known, n=1, cutoff=0.8)
        if "__" in setting or close:
            hint = f"; did you mean GATEHOUSE_{close[0].upper()}?" if close else ""
            raise ConfigurationError(f"{name}: {_UNKNOWN}{hint}")


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the name of every section, which can be given as JSON, and of every setting."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}__")


def _renamed(model: type[Settings], setting: str) -> str:
    """Return the new name of a setting that was renamed, otherwise an empty string."""
    for name, section in service_sections(model).items():
        renamed = {
            f"server__{name}_port": f"{name}__port",
            f"database__{name}_url": f"{name}__database_url",
            f"database__{name}_password": f"{name}__database_password",
            **section.renamed,
        }
        if setting in renamed:
            return renamed[setting]
        for old, new in renamed.items():
            if setting.startswith(f"{old}__"):
                return new + setting[len(old) :]
    return ""


def service_sections(model: type[Settings]) -> Mapping[str, type[ServiceSettings]]:
    """Return the sections of `model` that belong to services, by service name."""
    found = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, ServiceSettings):
            found[name] = kind
    return found


def wants_traceback() -> bool:
    """Return whether unexpected errors of the command line show their traceback."""
    return os.environ.get("GATEHOUSE_TRACEBACK") == "1"


def wants_color() -> bool:
    """Return whether a terminal may be written to in color (https://no-color.org, TERM)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def environment() -> Mapping[str, str]:
    """Return a copy of the environment, for child processes and for the variables of a realm file."""
    return dict(os.environ)


def read_secret(value: SecretStr | None, file: Path | None, name: str) -> str | None:
    """Return a secret from its setting or its file, None if neither is set.

    Args:
        value: The secret itself.
        file: The file that contains it.
        name: Name of the setting, for errors.

    Raises:
        ConfigurationError: The file cannot be read or is empty, or both are set.
    """
    if file is None:
        return value.get_secret_value() if value is not None else None
    if value is not None:
        raise ConfigurationError(f"{name} and {name}_FILE are both set; remove one of them")
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}_FILE: cannot read {file} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}_FILE: {file} is not UTF-8 text") from None
    if not secret:
        raise ConfigurationError(f"{name}_FILE: {file} is empty; write the secret into it")
    return secret


def validation_message(error: ValidationError, prefix: str) -> str:
    """Return one line for the first problem of a validation error, without the rejected value.

    Args:
        error: The error.
        prefix: `GATEHOUSE_` for settings, "" for the keys of a file.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    name = prefix + "__".join(path).upper() if prefix else ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{name}: {_UNKNOWN if prefix else 'unknown key'}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    reason = first["msg"].lower().removeprefix("value error, ")
    hint = "; see `gatehouse config --describe`" if prefix else ""
    return f"{name}: {reason}{hint}{more}"
