"""What `gatehouse config` prints: settings with defaults, values, origins and meaning; secrets are masked."""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, SecretsSettingsSource

from gatehouse.settings._values import MAX_SECONDS
from gatehouse.settings.sections import Settings, secrets_source


class SettingRow(NamedTuple):
    """A setting as documented. `default` is JSON, or "" if the setting is required."""

    name: str
    default: str
    meaning: str


class SettingValue(NamedTuple):
    """A setting as it is now. `value` is masked; `origin` is `environment`, `default`, or a path."""

    name: str
    value: Any
    origin: str


class SecretValue(NamedTuple):
    """A secret that is set, in clear.

    Attributes:
        name: Name of its setting.
        value: The secret; None if it is a file that Gatehouse does not read itself.
        file: The file that contains it, if it is in one.
    """

    name: str
    value: str | None
    file: Path | None


def mask_settings(settings: BaseModel) -> dict[str, Any]:
    """Return settings that are safe to print: secrets and passwords in URLs are masked."""
    return {name: _mask(name, value) for name, value in settings}


def _mask(name: str, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return mask_settings(value)
    if isinstance(value, SecretStr):
        return _mask_url(value.get_secret_value()) if name.endswith("_url") else str(value)
    if isinstance(value, Mapping):
        return {key: _mask(key, inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_mask(name, inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return _mask_url(value) if isinstance(value, str) and "://" in value else value


def _mask_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"  # not a URL, so the position of a password is unknown
    if parts.password:
        user, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}")
    # A password can also be a query parameter, such as `sslpassword`.
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    masked = (
        key + equals + ("***" if "pass" in unquote(key).lower() else value) for key, equals, value in pairs
    )
    return parts._replace(query="&".join(masked), fragment="").geturl()


def describe_settings(model: type[Settings]) -> list[SettingRow]:
    """Return a row for every setting. The keys of an issuer are named `GATEHOUSE_ISSUERS: key`."""
    rows: list[SettingRow] = []
    for section, section_field in model.model_fields.items():
        kind: Any = section_field.annotation
        is_list = not isinstance(kind, type)
        for name, field, meaning in _fields(get_args(kind)[0] if is_list else kind):
            full_name = f"GATEHOUSE_{section.upper()}" + (f": {name}" if is_list else f"__{name.upper()}")
            default = field.get_default()
            if isinstance(default, SecretStr):
                default = default.get_secret_value()  # written in the code, so not secret
            text = " ".join([*meaning.split(), *_limits(field)])
            rows.append(SettingRow(full_name, "" if field.is_required() else json.dumps(default), text))
    return rows


def _limits(field: FieldInfo) -> Iterator[str]:
    """Yield sentences that say which values a setting can have."""
    values = _literals(field.annotation)
    if values:
        quantity = "Any" if get_origin(field.annotation) is tuple else "One"
        yield f"{quantity} of {', '.join(f'`{value}`' for value in values)}."
    phrases = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    limits = [
        f"{phrase} {getattr(limit, name):.12g}"
        for limit in field.metadata
        for name, phrase in phrases.items()
        if getattr(limit, name, MAX_SECONDS) != MAX_SECONDS  # the limit of gRPC, far above any useful value
    ]
    if limits:
        yield f"{', '.join(limits).capitalize()}."


def _literals(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for part in get_args(kind) for value in _literals(part)]


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Yield the name, the field and the meaning of each setting of a section."""
    meanings = _docstrings(section)
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}__")
        else:
            yield prefix + name, field, meanings.get(name, "")


def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field, from the source.

    pydantic's `use_attribute_docstrings` does the same whenever a class is created, which takes a sixth of
    the CPU time of `gatehouse healthcheck`.
    """
    found = {}
    for model in reversed(section.__mro__):
        try:
            (definition,) = ast.parse(inspect.getsource(model)).body
        except (OSError, TypeError):  # a class without source
            continue
        for field, text in pairwise(getattr(definition, "body", ())):
            match field, text:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(meaning))):
                    found[name] = inspect.cleandoc(meaning)
    return found


def setting_values(settings: Settings) -> list[SettingValue]:
    """Return every setting with its masked value and its origin."""
    model = type(settings)
    origins = dict.fromkeys((name for name, _ in _leaves(EnvSettingsSource(model)())), "environment")
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    if directory:
        for name, _ in _leaves(secrets_source(SecretsSettingsSource(model), directory)()):
            origins.setdefault(name, directory)
    values = dict(_leaves(mask_settings(settings)))
    return [
        SettingValue(
            f"GATEHOUSE_{name.upper()}", value, origins.get(name) or values.get(f"{name}_file") or "default"
        )
        for name, value in values.items()
    ]


def secret_values(settings: Settings) -> Iterator[SecretValue]:
    """Yield every secret that is set, except for passwords in URLs."""
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    files = {path.name.lower(): path for path in Path(directory).iterdir()} if directory else {}
    given = {name for name, _ in _leaves(EnvSettingsSource(type(settings))())}
    for name, secret in _secrets(settings):
        file = secret.file or (None if name in given else files.get(f"gatehouse_{name}"))
        yield secret._replace(file=file)


def _secrets(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, SecretValue]]:
    """Yield the secrets below a section, each with the name of its setting in lower case."""
    for name, value in section:
        path = prefix + name
        if isinstance(value, BaseModel):
            yield from _secrets(value, f"{path}__")
        elif isinstance(value, tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, BaseModel):
                    yield from _secrets(entry, f"{path}[{index}].")
        elif isinstance(value, SecretStr) and not name.endswith("_url"):
            file = getattr(section, f"{name}_file", None)
            yield path, SecretValue(_full_name(path), value.get_secret_value(), file)
        elif isinstance(value, Path) and name == "private_key_file":
            yield path, SecretValue(_full_name(path), None, value)


def _full_name(path: str) -> str:
    """Return the name of a setting, such as `GATEHOUSE_ISSUERS[0].client_secret`."""
    section, bracket, key = path.partition("[")
    return f"GATEHOUSE_{section.upper()}{bracket}{key}"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}__")
        else:
            yield prefix + name, value
