"""Every setting of Gatehouse, typed; the only place that reads the environment.

Names: prefix `GATEHOUSE_`, `__` between levels, such as `GATEHOUSE_SERVER__USERS_PORT=50051`.
A secret may stand in a file instead: a setting that ends in `_FILE` names it, or a file of the setting's
name in lower case, such as `gatehouse_database__users_url`, stands in the folder `GATEHOUSE_SECRETS_DIR`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class VerifyMode(StrEnum):
    """How tokens of an issuer are verified."""

    JWT = "jwt"
    INTROSPECTION = "introspection"
    HYBRID = "hybrid"


class ServerSettings(_Section):
    """Where the services listen and what they bear."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    users_port: int = Field(50051, ge=0, le=65535)
    """Port of UserService; 0 takes a free one."""
    admin_port: int = Field(50052, ge=0, le=65535)
    """Port of AdminService."""
    public_port: int = Field(50053, ge=0, le=65535)
    """Port of PublicService."""
    reflection: bool = False
    """Whether grpc.reflection is served, to everyone."""
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """Greatest size of a message, both ways; a larger one is RESOURCE_EXHAUSTED."""
    max_metadata_bytes: int = Field(16 * 1024, ge=1024)
    """Greatest size of a call's metadata."""
    max_concurrent_streams: int = Field(100, ge=1)
    """Calls at once on one connection; more of them wait at the caller."""
    max_concurrent_rpcs: int = Field(1000, ge=1)
    """Calls at once in one process; more of them are RESOURCE_EXHAUSTED."""
    max_connection_age_seconds: float = Field(1800.0, gt=0)
    """Age at which a connection is closed, so that callers find new replicas."""
    max_connection_age_grace_seconds: float = Field(30.0, gt=0)
    """Time that calls on such a connection have to end."""
    max_deadline_seconds: float = Field(30.0, gt=0)
    """Longest time of a unary call; a caller's longer deadline is cut."""
    max_stream_deadline_seconds: float = Field(3600.0, gt=0)
    """Longest time of a stream."""
    drain_seconds: float = Field(20.0, ge=0)
    """Time that calls under way have to end after a signal."""
    recheck_seconds: float = Field(30.0, gt=0)
    """Time between two looks at the token of a stream."""
    grpc_tuning: Literal["auto", "off"] = "auto"
    """Tune gRPC's threads (`auto`: only for the grpcio version that was measured); see operations.md."""


class TlsSettings(_Section):
    """TLS of the services and of channels. Plaintext takes two settings beyond loopback."""

    certificate_file: Path | None = None
    """PEM chain of the services."""
    private_key_file: Path | None = None
    """PEM key of the services."""
    ca_file: Path | None = None
    """PEM authorities that channels trust; those of the system when unset."""
    plaintext: bool = False
    """Whether plaintext is wanted, for servers and channels."""
    plaintext_beyond_loopback: bool = False
    """Whether it is wanted on other addresses than loopback too."""
    reload_seconds: float = Field(5.0, gt=0)
    """How often, at most, certificate and key are looked at for a change."""


class IssuerSettings(_Section):
    """One issuer whose tokens are accepted.

    `issuer` is what `iss` must be; `discovery_url` is where its metadata is reached, when that is elsewhere.
    """

    issuer: str
    """What `iss` must be, to the letter."""
    provider: Literal["keycloak", "auth0", "okta"] = "keycloak"
    """Whose claims these are."""
    mode: VerifyMode = VerifyMode.HYBRID
    """`jwt`, `introspection`, or `hybrid`: the signature first, then introspection."""
    audience: str
    """What `aud` must contain."""
    algorithms: tuple[str, ...] = ("ES256", "RS256")
    """Accepted `alg` values, asymmetric only."""
    discovery_url: str | None = None
    """Where the metadata is reached, when not below `issuer`."""
    jwks_uri: str | None = None
    """Where the keys are, when not where the metadata says."""
    introspection_endpoint: str | None = None
    """Likewise for introspection."""
    client_id: str | None = None
    """Client that introspects."""
    client_secret: SecretStr | None = None
    """Its secret."""
    client_secret_file: Path | None = None
    """File with its secret."""
    revocation_budget_seconds: float = Field(30.0, ge=0, le=300)
    """How old an answer about a token may be; 0 asks each time."""
    leeway_seconds: float = Field(60.0, ge=0, le=300)
    """Accepted difference of clocks."""
    allow_http: bool = False
    """Whether plain HTTP beyond loopback is accepted."""
    ca_file: Path | None = None
    """PEM authorities that are trusted for this issuer, beside the system's."""


class ClientSettings(_Section):
    """The OAuth client that AdminService uses towards UserService."""

    issuer: str | None = None
    """Issuer of its tokens; the first of `ISSUERS` when unset."""
    discovery_url: str | None = None
    """Where that issuer's metadata is reached, when not below `issuer`."""
    client_id: str | None = None
    """The client."""
    client_secret: SecretStr | None = None
    """Its secret."""
    client_secret_file: Path | None = None
    """File with its secret."""
    scope: str = "read:users"
    """Scopes to ask for, separated by spaces."""
    users_target: str = "127.0.0.1:50051"
    """Where UserService is, as gRPC names it; `dns:///` names balance over all addresses."""
    allow_http: bool = False
    """Whether plain HTTP beyond loopback is accepted."""


class RoleSyncSettings(_Section):
    """Role bindings are brought to an identity provider: Keycloak's admin API. Off without `admin_url`."""

    admin_url: str | None = None
    """Base of the realm in Keycloak's admin API, such as `https://id.example.com/admin/realms/r`."""
    issuer: str | None = None
    """Issuer of the client's tokens; the first of `ISSUERS` when unset."""
    discovery_url: str | None = None
    """Where that issuer's metadata is reached, when not below `issuer`."""
    client_id: str = "gatehouse-role-sync"
    """Client whose service account may change role mappings."""
    client_secret: SecretStr | None = None
    """Its secret."""
    client_secret_file: Path | None = None
    """File with its secret."""
    allow_http: bool = False
    """Whether plain HTTP beyond loopback is accepted."""
    poll_seconds: float = Field(1.0, gt=0, le=60)
    """Time between two looks at the outbox; a notification wakes the worker earlier."""


class DatabaseSettings(_Section):
    """PostgreSQL: one address for each login role, and the owner's for `gatehouse migrate`.

    A password may stand apart from its address. `gatehouse migrate` gives the three login roles theirs.
    """

    users_url: SecretStr = SecretStr("postgresql://gatehouse_users@127.0.0.1:5432/gatehouse")
    """Address for UserService."""
    admin_url: SecretStr = SecretStr("postgresql://gatehouse_admin@127.0.0.1:5432/gatehouse")
    """Address for AdminService."""
    public_url: SecretStr = SecretStr("postgresql://gatehouse_public@127.0.0.1:5432/gatehouse")
    """Address for PublicService."""
    migrate_url: SecretStr = SecretStr("postgresql://postgres@127.0.0.1:5432/gatehouse")
    """Address for `gatehouse migrate`, of a role that may create schemas and roles."""
    users_password: SecretStr | None = None
    """Password of gatehouse_users, when not in its address."""
    admin_password: SecretStr | None = None
    """Password of gatehouse_admin, likewise."""
    public_password: SecretStr | None = None
    """Password of gatehouse_public, likewise."""
    migrate_password: SecretStr | None = None
    """Password of the owner, likewise."""
    pool_size: int = Field(10, ge=1)
    """Greatest number of connections of one service in one process."""
    connect_timeout_seconds: float = Field(2.0, gt=0)
    """Time to wait for a connection, new or out of the pool."""
    lock_timeout_seconds: float = Field(10.0, gt=0)
    """Time that `gatehouse migrate` waits for another one, or for a lock on a table."""

    @field_validator("users_url", "admin_url", "public_url", "migrate_url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            good = parts.scheme in {"postgresql", "postgres"} and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ValueError("is no address such as postgresql://role:password@host:5432/database")
        return value

    def address(self, role: Literal["users", "admin", "public", "migrate"]) -> str:
        """Returns the address of a role, with its password where that stands apart."""
        urls = {
            "users": (self.users_url, self.users_password),
            "admin": (self.admin_url, self.admin_password),
            "public": (self.public_url, self.public_password),
            "migrate": (self.migrate_url, self.migrate_password),
        }
        url, password = urls[role]
        parts = urlsplit(url.get_secret_value())
        if password is None or not parts.username or parts.password is not None:
            return url.get_secret_value()
        user, _, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{quote(password.get_secret_value(), safe='')}@{host}").geturl()


class TelemetrySettings(_Section):
    """Traces and metrics."""

    otlp_endpoint: str | None = None
    """Where spans go by OTLP over gRPC, such as `http://collector:4317`; no spans when unset."""
    otlp_insecure: bool = False
    """Whether OTLP goes without TLS."""
    export_seconds: float = Field(5.0, gt=0)
    """Longest time that a finished span waits."""
    sample_ratio: float = Field(1.0, ge=0, le=1)
    """Part of new traces that is kept; a caller's decision goes before it."""
    metrics_host: str = "127.0.0.1"
    """Address where Prometheus reads."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port where Prometheus reads; 0 takes a free one, none is opened when unset."""


class LogSettings(_Section):
    """Log lines."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console`, or `auto`: console at a terminal."""


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix="GATEHOUSE_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    server: ServerSettings = Field(default_factory=ServerSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    issuers: tuple[IssuerSettings, ...] = ()
    client: ClientSettings = Field(default_factory=ClientSettings)
    role_sync: RoleSyncSettings = Field(default_factory=RoleSyncSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A misspelt setting is a fault; only names that are not settings at all may be there."""
        return {name: value for name, value in values.items() if name in cls.model_fields}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds the folder of secrets, below the environment."""
        del settings_cls, dotenv_settings
        folder = os.environ.get("GATEHOUSE_SECRETS_DIR")
        if not folder:
            return init_settings, env_settings
        return init_settings, env_settings, _secrets(file_secret_settings, folder)


def _secrets(source: PydanticBaseSettingsSource, folder: str) -> NestedSecretsSettingsSource:
    return NestedSecretsSettingsSource(
        source,
        secrets_dir=folder,
        secrets_dir_missing="error",
        secrets_prefix="gatehouse_",
        secrets_nested_delimiter="__",
    )


class Profile(_Section):
    """What the command line needs of a running system: `gatehouse call`, `token`, `healthcheck`, `tour`.

    `discovery_url` and `revocation_endpoint` are where the issuer is reached, when that is elsewhere than its
    metadata says. `ca_file` is trusted beside the system's authorities, by services and issuer alike; a
    relative one is looked for beside the profile. `clients` and `passwords` hold secrets of the demo realm
    only; elsewhere they come from prompts.
    `traces_url` is a server of Jaeger's query API, `metrics` the addresses of the services' figures by
    service, `revocation_budget_seconds` what the services are set to. `issuer_admin_password` is for the
    admin calls of the issuer, with which the tour rotates the signing key.
    """

    issuer: str = "http://127.0.0.1:8080/realms/gatehouse"
    discovery_url: str | None = None
    revocation_endpoint: str | None = None
    users_target: str = "127.0.0.1:50051"
    admin_target: str = "127.0.0.1:50052"
    public_target: str = "127.0.0.1:50053"
    ca_file: Path | None = None
    plaintext: bool = False
    console_client: str = "gatehouse-console"
    api_client: str = "gatehouse-api"
    clients: dict[str, SecretStr] = Field(default_factory=dict)
    passwords: dict[str, SecretStr] = Field(default_factory=dict)
    traces_url: str | None = None
    metrics: dict[str, str] = Field(default_factory=dict)
    issuer_admin_user: str = "admin"
    issuer_admin_password: SecretStr | None = None
    revocation_budget_seconds: float = Field(30.0, ge=0, le=300)


class ConfigurationError(Exception):
    """The configuration cannot be used; one line says which setting, why, and how to mend it."""


_NO_SUCH_SETTING = "there is no such setting; `gatehouse config` prints all of them"
_KNOWN_ELSEWHERE = {
    "GATEHOUSE_SECRETS_DIR",
    "GATEHOUSE_PROFILE",
    "GATEHOUSE_TRACEBACK",
}


def load_settings() -> Settings:
    """Reads the settings from the environment and the folder of secrets.

    Raises:
        ConfigurationError: A setting is unknown, or has a value that cannot be used.
    """
    _refuse_unknown_names(os.environ)
    folder = os.environ.get("GATEHOUSE_SECRETS_DIR")
    try:
        if folder:
            _refuse_unknown_names(path.name for path in Path(folder).iterdir())
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(_line(error, "GATEHOUSE_")) from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"GATEHOUSE_{field[1].upper()}" if field else f"GATEHOUSE_SECRETS_DIR: {folder}"
        raise ConfigurationError(
            f'{name}: is not JSON, as a setting of several values is; such as {{"name": "value"}}'
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"GATEHOUSE_SECRETS_DIR: {error.filename} cannot be read ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"GATEHOUSE_SECRETS_DIR: {folder} holds a file that is no text") from None


def _refuse_unknown_names(names: Iterable[str]) -> None:
    """Refuses names that can only be misspelt settings.

    A name without levels may be somebody else's: a variable of the realm file such as
    GATEHOUSE_API_SECRET, or what Kubernetes sets for a service called gatehouse.
    """
    for name in names:
        if not name.upper().startswith("GATEHOUSE_") or name in _KNOWN_ELSEWHERE:
            continue
        section, *levels = name[len("GATEHOUSE_") :].lower().split("__")
        if section in Settings.model_fields and len(levels) <= 1:
            continue  # what is below a section is checked with its value
        near = difflib.get_close_matches(section, Settings.model_fields, n=1, cutoff=0.8)
        if levels or near:
            mean = f"; is GATEHOUSE_{near[0].upper()} meant?" if near and near[0] != section else ""
            raise ConfigurationError(f"{name}: {_NO_SUCH_SETTING}{mean}")


def load_profile() -> Profile:
    """Reads the file that `GATEHOUSE_PROFILE` names; the defaults when it names none.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    name = os.environ.get("GATEHOUSE_PROFILE")
    if not name:
        return Profile()
    try:
        profile = Profile.model_validate_json(Path(name).read_bytes())
        if profile.ca_file is None:
            return profile
        return profile.model_copy(update={"ca_file": Path(name).parent / profile.ca_file})
    except OSError as error:
        raise ConfigurationError(
            f"{name}: cannot be read ({error.strerror}); `make serve` writes it and prints its name"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(f"{name}: {_line(error, '')}") from None


def wants_traceback() -> bool:
    """Whether a fault of the command line is to be shown with its traceback."""
    return os.environ.get("GATEHOUSE_TRACEBACK") == "1"


def wants_color() -> bool:
    """Return whether a terminal may be written to in color (https://no-color.org, TERM)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def local_profile() -> Profile:
    """Returns the profile that is named, or else one of the services that this environment configures.

    So a probe beside a server, in its container, needs no configuration of its own.

    Raises:
        ConfigurationError: As in `load_profile` and `load_settings`.
    """
    if os.environ.get("GATEHOUSE_PROFILE"):
        return load_profile()
    settings = load_settings()
    server, tls = settings.server, settings.tls
    host = "127.0.0.1" if server.host in {"0.0.0.0", "::", "[::]"} else server.host  # noqa: S104 - compared only
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Profile(
        users_target=f"{host}:{server.users_port}",
        admin_target=f"{host}:{server.admin_port}",
        public_target=f"{host}:{server.public_port}",
        ca_file=tls.ca_file,
        plaintext=tls.plaintext,
    )


def environment() -> Mapping[str, str]:
    """Returns the environment, for the variables of a realm file."""
    return dict(os.environ)


def masked(settings: BaseModel) -> dict[str, Any]:
    """Returns settings as they may be printed: secrets and passwords in addresses are masked."""
    found: dict[str, Any] = _without_passwords(json.loads(settings.model_dump_json()))
    if isinstance(settings, Settings):
        for name, value in settings.database:
            if name.endswith("_url"):
                found["database"][name] = _masked_url(value.get_secret_value())
    return found


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_passwords(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_passwords(inner) for inner in value]
    return _masked_url(value) if isinstance(value, str) and "://" in value and "@" in value else value


def _masked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"  # no address, so nobody knows where its password begins
    where = parts.netloc
    if parts.password:
        where = f"{quote(parts.username or '')}:***@{where.rpartition('@')[2]}"
    # A password may stand among the parameters too.
    pairs = [f"{k}={'***' if 'pass' in k.lower() else v}" for k, v in parse_qsl(parts.query)]
    return urlunsplit((parts.scheme, where, parts.path, "&".join(pairs), ""))


def described() -> list[tuple[str, str, str]]:
    """Returns (name, default as JSON, meaning) of each setting; an issuer's as `GATEHOUSE_ISSUERS: name`.

    A setting that must be given has the default "".
    """
    rows = []
    for section, field in Settings.model_fields.items():
        kind: Any = field.annotation
        within: Any = kind if isinstance(kind, type) else kind.__args__[0]
        joint = "__" if within is kind else ": "
        for name, leaf in within.model_fields.items():
            default = "" if leaf.is_required() else _default(leaf.default)
            label = f"GATEHOUSE_{section.upper()}{joint}{name.upper() if within is kind else name}"
            rows.append((label, default, leaf.description or ""))
    return rows


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()  # of the code, so no secret
    return json.dumps(value)


def origins(settings: Settings) -> list[tuple[str, Any, str]]:
    """Returns (name, masked value, where it comes from) of each setting."""
    given = dict.fromkeys((name for name, _ in _leaves(EnvSettingsSource(Settings)())), "environment")
    folder = os.environ.get("GATEHOUSE_SECRETS_DIR")
    if folder:
        for name, _ in _leaves(_secrets(SecretsSettingsSource(Settings), folder)()):
            given.setdefault(name, folder)
    return [
        (f"GATEHOUSE_{name.upper()}", value, given.get(name, "default"))
        for name, value in _leaves(masked(settings))
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}__")
        else:
            yield prefix + name, value


def secret_of(value: SecretStr | None, file: Path | None, name: str) -> str | None:
    """Returns a secret, from the setting or from its file.

    Raises:
        ConfigurationError: The file cannot be read or is empty, or both are given.
    """
    if file is None:
        return value.get_secret_value() if value is not None else None
    if value is not None:
        raise ConfigurationError(f"{name}: is given, and {name}_FILE too; keep one of them")
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}_FILE: {file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}_FILE: {file} is no text in UTF-8") from None
    if not secret:
        raise ConfigurationError(f"{name}_FILE: {file} is empty; write the secret into it")
    return secret


def _line(error: ValidationError, prefix: str) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = (
        prefix + "__".join(str(part) for part in first["loc"]).upper()
        if prefix
        else ".".join(map(str, first["loc"]))
    )
    if first["type"] == "extra_forbidden":
        return f"{name}: {_NO_SUCH_SETTING if prefix else 'there is no such entry'}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    said = first["msg"].lower().removeprefix("value error, ")
    return f"{name}: {said}; `gatehouse config --help` says more{more}"
