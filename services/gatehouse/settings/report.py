"""What `gatehouse config` prints: settings with defaults, values, origins and meaning; secrets are masked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, SecretsSettingsSource

from gatehouse.settings.sections import Settings, secrets_source


class SettingRow(NamedTuple):
    """A setting as documented. `default` is JSON, or "" if the setting is required."""

    name: str
    default: str
    meaning: str


class SettingValue(NamedTuple):
    """A setting as it is now. `value` is masked; `origin` is `environment`, `default`, or a directory."""

    name: str
    value: Any
    origin: str


def mask_settings(settings: Settings) -> dict[str, Any]:
    """Return settings that are safe to print: secrets and passwords in URLs are masked."""
    masked: dict[str, Any] = _mask_urls(json.loads(settings.model_dump_json()))
    for section, value in settings:
        if isinstance(value, BaseModel):
            for name, secret in value:
                if name.endswith("_url") and isinstance(secret, SecretStr):
                    masked[section][name] = _mask_url(secret.get_secret_value())
    return masked


def _mask_urls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mask_urls(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mask_urls(inner) for inner in value]
    return _mask_url(value) if isinstance(value, str) and "://" in value and "@" in value else value


def _mask_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"  # not a URL, so the position of a password is unknown
    location = parts.netloc
    if parts.password:
        location = f"{quote(parts.username or '')}:***@{location.rpartition('@')[2]}"
    # A password can also be a query parameter.
    pairs = [f"{k}={'***' if 'pass' in k.lower() else v}" for k, v in parse_qsl(parts.query)]
    return urlunsplit((parts.scheme, location, parts.path, "&".join(pairs), ""))


def describe_settings(model: type[Settings]) -> list[SettingRow]:
    """Return a row for every setting. The keys of an issuer are named `GATEHOUSE_ISSUERS: key`."""
    rows: list[SettingRow] = []
    for section, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type):
            rows += _describe_section(kind, f"GATEHOUSE_{section.upper()}__")
        else:
            issuer: type[BaseModel] = kind.__args__[0]
            rows += [
                _row(f"GATEHOUSE_{section.upper()}: {name}", inner)
                for name, inner in issuer.model_fields.items()
            ]
    return rows


def _describe_section(section: type[BaseModel], prefix: str) -> Iterator[SettingRow]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _describe_section(kind, f"{prefix}{name.upper()}__")
        else:
            yield _row(prefix + name.upper(), field)


def _row(name: str, field: FieldInfo) -> SettingRow:
    default = field.get_default()
    if isinstance(default, SecretStr):
        default = default.get_secret_value()  # written in the code, so not secret
    text = "" if field.is_required() else json.dumps(default)
    return SettingRow(name, text, field.description or "")


def setting_values(settings: Settings) -> list[SettingValue]:
    """Return every setting with its masked value and its origin."""
    model = type(settings)
    origins = dict.fromkeys((name for name, _ in _leaves(EnvSettingsSource(model)())), "environment")
    directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
    if directory:
        for name, _ in _leaves(secrets_source(SecretsSettingsSource(model), directory)()):
            origins.setdefault(name, directory)
    return [
        SettingValue(f"GATEHOUSE_{name.upper()}", value, origins.get(name, "default"))
        for name, value in _leaves(mask_settings(settings))
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}__")
        else:
            yield prefix + name, value
