"""Typed settings: the sections that every service shares, how they are loaded, and how they are printed.

Nothing else in Gatehouse reads the environment.
"""

from gatehouse.settings.loading import (
    ConfigurationError,
    environment,
    load_settings,
    read_secret,
    validation_message,
    wants_color,
    wants_traceback,
)
from gatehouse.settings.report import (
    SettingRow,
    SettingValue,
    describe_settings,
    mask_settings,
    setting_values,
)
from gatehouse.settings.sections import (
    DatabaseSettings,
    IssuerSettings,
    LogSettings,
    OAuthClientSettings,
    Section,
    ServerSettings,
    ServiceSettings,
    Settings,
    TelemetrySettings,
    TlsSettings,
    VerifyMode,
    with_password,
)

__all__ = [
    "ConfigurationError",
    "DatabaseSettings",
    "IssuerSettings",
    "LogSettings",
    "OAuthClientSettings",
    "Section",
    "ServerSettings",
    "ServiceSettings",
    "SettingRow",
    "SettingValue",
    "Settings",
    "TelemetrySettings",
    "TlsSettings",
    "VerifyMode",
    "describe_settings",
    "environment",
    "load_settings",
    "mask_settings",
    "read_secret",
    "setting_values",
    "validation_message",
    "wants_color",
    "wants_traceback",
    "with_password",
]
