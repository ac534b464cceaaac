"""Typed settings: the sections that every service shares, how they are loaded, and how they are printed.

Nothing else in Gatehouse reads the environment.
"""

from gatehouse.settings._addresses import GrpcTarget
from gatehouse.settings._database_urls import database_parameters, with_login
from gatehouse.settings._files import FileCheck
from gatehouse.settings._names import printable
from gatehouse.settings._secrets import follow_secret, read_secret_file
from gatehouse.settings._section import Section
from gatehouse.settings._urls import is_loopback, url_error
from gatehouse.settings._values import VerifyMode
from gatehouse.settings.claim_paths import (
    ANY_CLIENT,
    PRESETS,
    TENANT,
    ClaimLayout,
    ProviderName,
    parse_claim_path,
)
from gatehouse.settings.errors import ConfigurationError
from gatehouse.settings.loading import (
    environment,
    load_settings,
    validation_message,
    wants_color,
    wants_traceback,
)
from gatehouse.settings.report import (
    SecretValue,
    SettingRow,
    SettingValue,
    describe_settings,
    mask_settings,
    secret_values,
    setting_values,
)
from gatehouse.settings.sections import (
    Algorithm,
    DatabaseSettings,
    IssuerSettings,
    LogSettings,
    OAuthClientSettings,
    ProxyUrl,
    ServerSettings,
    ServiceSettings,
    Settings,
    StandbySettings,
    TelemetrySettings,
    TlsSettings,
)

__all__ = [
    "ANY_CLIENT",
    "PRESETS",
    "TENANT",
    "Algorithm",
    "ClaimLayout",
    "ConfigurationError",
    "DatabaseSettings",
    "FileCheck",
    "GrpcTarget",
    "IssuerSettings",
    "LogSettings",
    "OAuthClientSettings",
    "ProviderName",
    "ProxyUrl",
    "SecretValue",
    "Section",
    "ServerSettings",
    "ServiceSettings",
    "SettingRow",
    "SettingValue",
    "Settings",
    "StandbySettings",
    "TelemetrySettings",
    "TlsSettings",
    "VerifyMode",
    "database_parameters",
    "describe_settings",
    "environment",
    "follow_secret",
    "is_loopback",
    "load_settings",
    "mask_settings",
    "parse_claim_path",
    "printable",
    "read_secret_file",
    "secret_values",
    "setting_values",
    "url_error",
    "validation_message",
    "wants_color",
    "wants_traceback",
    "with_login",
]
