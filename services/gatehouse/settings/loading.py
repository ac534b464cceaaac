"""Load settings from the environment and the secrets directory; refuse names that do not exist.

Names have the prefix `GATEHOUSE_` and `__` between levels, such as `GATEHOUSE_SERVER__HOST`. A setting can
also be a file in the directory that `GATEHOUSE_SECRETS_DIR` names, with its name in lower case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from gatehouse.settings._names import (
    nearest,
    nearest_setting,
    nearest_setting_without_levels,
    printable,
)
from gatehouse.settings._section import Section
from gatehouse.settings.errors import ConfigurationError
from gatehouse.settings.sections import IssuerSettings, ServiceSettings, Settings

S = TypeVar("S", bound=Settings)

_PREFIX = "GATEHOUSE_"
_OTHER_NAMES = {"GATEHOUSE_SECRETS_DIR", "GATEHOUSE_PROFILE", "GATEHOUSE_LOGIN", "GATEHOUSE_TRACEBACK"}
# In place of pydantic's texts for errors of these types.
_MESSAGES = {
    "missing": "required",
    "int_parsing": "must be an integer",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a JSON list",
    "model_type": "must be a JSON object",
}


def load_settings(model: type[S]) -> S:
    """Load the settings.

    Args:
        model: The settings class, composed of the shared sections and those of the services.

    Raises:
        ConfigurationError: A setting is unknown, was renamed, or has an invalid value.
    """
    _check_names(model, (name for name, value in os.environ.items() if not _is_service_link(name, value)))
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    try:
        if directory:
            _check_names(model, (path.name for path in Path(directory).iterdir()))
        return model()
    except ValidationError as error:
        raise ConfigurationError(_explain(model, error)) from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        if field is None:
            raise ConfigurationError(
                f"GATEHOUSE_SECRETS_DIR: {directory}: too large; name a directory that contains only secrets"
            ) from None
        example = '[{"name": "value"}]' if field[1] == "issuers" else '{"name": "value"}'
        raise ConfigurationError(f"{_place([field[1]])}: must be JSON, such as {example}") from None
    except OSError as error:
        raise ConfigurationError(
            f"GATEHOUSE_SECRETS_DIR: cannot read {error.filename} ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        file = next(filter(_is_not_text, sorted(Path(directory or "").iterdir())), directory)
        raise ConfigurationError(f"GATEHOUSE_SECRETS_DIR: {file}: not UTF-8 text") from None


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable: GATEHOUSE_X_PORT, for a service called gatehouse-x."""
    return "__" not in name and re.fullmatch(r"(tcp|udp|sctp)://[\w.:\[\]]+:\d+", value) is not None


def _is_not_text(file: Path) -> bool:
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    except OSError:
        pass
    return False


def _place(location: Sequence[str]) -> str:
    """Return the name of a setting, with the file in the secrets directory if its value is from there."""
    name = f"{_PREFIX}{'__'.join(location).upper()}"
    variables = {variable.lower() for variable in os.environ}
    for length in range(len(location), 0, -1):  # a section can be one JSON value
        source = f"{_PREFIX}{'__'.join(location[:length])}".lower()
        file = Path(os.environ.get("GATEHOUSE_SECRETS_DIR") or os.devnull, source)
        if source in variables:
            break
        if file.is_file():
            return f"{name}: {file}"
    return name


def _check_names(model: type[Settings], names: Iterable[str]) -> None:
    """Raise ConfigurationError for the name of an environment variable or file that is not a setting.

    A name without levels may belong to another program, such as GATEHOUSE_API_SECRET (a variable of the realm
    file) or GATEHOUSE_USERS_SERVICE_HOST (set by Kubernetes). It is only an error if it resembles a setting.
    """
    settings = set(_names(model))
    for name in names:
        setting = name[len(_PREFIX) :].lower()
        if not name.upper().startswith(_PREFIX) or name in _OTHER_NAMES or setting in settings:
            continue
        new_name = _new_name(model, setting)
        if new_name or "__" in setting or _suggestion(model, setting):
            raise ConfigurationError(f"{name}: {_unknown(model, setting)}")


def _unknown(model: type[Settings], setting: str) -> str:
    new_name = _new_name(model, setting)
    if new_name:
        return f"was renamed; use {_PREFIX}{new_name.upper()}"
    similar = _suggestion(model, setting)
    if similar:
        return f"unknown setting; did you mean {_PREFIX}{similar.upper()}?"
    return "unknown setting; `gatehouse config --describe` lists all settings"


def _suggestion(model: type[Settings], setting: str) -> str:
    """Return the setting that `setting` is probably meant to be, otherwise an empty string."""
    settings = list(_names(model))
    if setting.startswith("issuers__"):  # it is one JSON list
        return "issuers"
    if "__" in setting:
        return nearest_setting(setting, settings)
    others = [name.removeprefix(_PREFIX).lower() for name in _OTHER_NAMES]
    return nearest_setting_without_levels(setting, settings, others)


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the name of every section, which can be given as JSON, and of every setting."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}__")


def _new_name(model: type[Settings], setting: str) -> str:
    """Return the new name of a setting that was renamed, otherwise an empty string."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, Section)):
            continue
        renamed = dict(section.renamed)
        if issubclass(section, ServiceSettings):
            renamed |= {
                f"server__{name}_port": f"{name}__port",
                f"database__{name}_url": f"{name}__database_url",
                f"database__{name}_password": f"{name}__database_password",
            }
        for old, new in renamed.items():
            if setting == old or setting.startswith(f"{old}__"):
                return new + setting[len(old) :]
    return ""


def _explain(model: type[Settings], error: ValidationError) -> str:
    """Return one line for the first problem of a validation error, without the rejected value."""
    location, reason = _first_problem(error)
    if location[:1] == ["issuers"] and len(location) > 1:  # a key in the JSON list
        _, index, *keys = location
        name = f"{_PREFIX}ISSUERS[{index}]{''.join(f'.{key}' for key in keys)}"
        name += _place(["issuers"]).removeprefix(f"{_PREFIX}ISSUERS")
        unknown = _unknown_key(location[-1], IssuerSettings.model_fields)
    else:
        name = _place(location)
        unknown = _unknown(model, "__".join(location))
    if reason:
        return f"{name}: {reason}; see `gatehouse config --describe`{_count_more(error)}"
    return f"{name}: {unknown}"


def _unknown_key(key: str, keys: Iterable[str]) -> str:
    similar = nearest(key, keys)
    return f"unknown key; did you mean {similar}?" if similar else "unknown key"


def validation_message(error: ValidationError, keys: Iterable[str] = ()) -> str:
    """Return one line for the first problem in a JSON file, without the rejected value.

    Args:
        error: The error.
        keys: Keys of the file, from which to suggest one in place of an unknown key.
    """
    location, reason = _first_problem(error)
    problem = f"{reason or _unknown_key(location[-1], keys)}{_count_more(error)}"
    return ": ".join(filter(None, (".".join(location), problem)))


def _first_problem(error: ValidationError) -> tuple[list[str], str]:
    """Return where the first problem is and what it is, an empty string if it is an unknown key.

    An unknown key goes first: if it is a misspelled one, the right one is reported as missing.
    """
    problems = error.errors(include_url=False, include_input=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    location = [printable(str(part)) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    message = _MESSAGES.get(first["type"], f"{message[0].lower()}{message[1:]}")
    return location, "" if first["type"] == "extra_forbidden" else message


def _count_more(error: ValidationError) -> str:
    return f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""


def wants_traceback() -> bool:
    """Return whether failed commands print a traceback."""
    return os.environ.get("GATEHOUSE_TRACEBACK") == "1"


def wants_color(*, terminal: bool) -> bool:
    """Return whether to write colors: NO_COLOR decides first, then FORCE_COLOR, then TERM and the terminal.

    See https://no-color.org and https://force-color.org.

    Args:
        terminal: Whether the output is a terminal.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (
        terminal and os.environ.get("TERM") not in {"dumb", "unknown"}
    )


def environment() -> Mapping[str, str]:
    """Return a copy of the environment, for child processes and for the variables of a realm file."""
    return dict(os.environ)
