"""The settings that every service shares. Each service adds its own; `gatehouse.app` composes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from gatehouse.settings._addresses import Host, OtlpEndpoint
from gatehouse.settings._database_urls import database_parameters
from gatehouse.settings._libpq import parameter_problem
from gatehouse.settings._secrets import read_secret_file
from gatehouse.settings._section import Section
from gatehouse.settings._urls import url_error
from gatehouse.settings._values import (
    MAX_BYTES,
    MAX_SECONDS,
    FilePath,
    RolePrefix,
    Seconds,
    VerifyMode,
    as_tuple,
)
from gatehouse.settings.claim_paths import TENANT, ClaimSettings
from gatehouse.settings.errors import ConfigurationError

Algorithm = Literal["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]


def _check_database_url(value: SecretStr) -> SecretStr:
    try:
        parameters = database_parameters(value.get_secret_value())
    except ValueError:
        # The error of a parser may quote the password.
        raise ValueError("must be a URL such as postgresql://role:password@host:5432/database") from None
    problem = parameter_problem(parameters)
    if problem:
        raise ValueError(problem)
    return value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]


class ServerSettings(Section):
    """Address and limits of the gRPC servers."""

    host: Host = "127.0.0.1"
    """Address to listen on, without the port; `0.0.0.0` for all IPv4 addresses."""
    reflection: bool = False
    """Serve gRPC reflection (v1 and v1alpha) to everyone, without authentication."""
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=MAX_BYTES)
    """Largest message, in either direction; a larger one fails with RESOURCE_EXHAUSTED."""
    max_metadata_bytes: int = Field(16 * 1024, ge=1024, le=MAX_BYTES)
    """Largest metadata of a call; a call with more, or with more than 100 entries, fails with
    RESOURCE_EXHAUSTED."""
    max_concurrent_streams: int = Field(100, ge=1, le=1_000_000)
    """Concurrent calls of any type on one connection (HTTP/2 streams); the client queues further ones."""
    max_concurrent_rpcs: int = Field(1000, ge=1)
    """Concurrent unary calls in one process; further ones fail with RESOURCE_EXHAUSTED."""
    max_streams: int = Field(2000, ge=1)
    """Concurrent streaming calls in one process; further ones fail with RESOURCE_EXHAUSTED."""
    max_watches_per_connection: int = Field(32, ge=1)
    """Concurrent health watches on one connection; further ones fail with RESOURCE_EXHAUSTED."""
    max_watches: int = Field(1000, ge=1)
    """Concurrent health watches in one process; further ones fail with RESOURCE_EXHAUSTED."""
    max_connection_age_seconds: Seconds = 1800.0
    """Age at which a connection is closed, so that clients reconnect and find new replicas."""
    max_connection_age_grace_seconds: Seconds = 30.0
    """Time after that age until calls on the connection are cancelled."""
    max_deadline_seconds: Seconds = 30.0
    """Longest duration of a unary call, even if the client sets a longer deadline."""
    max_stream_deadline_seconds: Seconds = 3600.0
    """Longest duration of a streaming call; it then fails with DEADLINE_EXCEEDED."""
    drain_seconds: float = Field(20.0, ge=0, le=MAX_SECONDS)
    """Time after SIGTERM or SIGINT until calls in progress are cancelled."""
    stop_delay_seconds: float = Field(0.0, ge=0, le=MAX_SECONDS)
    """Time after SIGTERM or SIGINT in which health is NOT_SERVING but calls are still accepted, so that a
    load balancer stops sending them. `drain_seconds` starts after it."""
    recheck_seconds: Seconds = 30.0
    """Interval at which the token of an open stream is verified again. After a revocation, the stream ends
    within this time plus `revocation_budget_seconds`."""
    health_poll_seconds: Seconds = 0.25
    """Interval at which the health service checks whether the process is ready."""
    grpc_tuning: Literal["auto", "off"] = "auto"
    """Tune gRPC, see operations.md; `auto` does so only with the grpcio version that was measured."""


class TlsSettings(Section):
    """TLS of the servers and of the gRPC clients."""

    certificate_file: FilePath | None = None
    """PEM certificate chain of the servers."""
    private_key_file: FilePath | None = None
    """PEM private key of the servers."""
    ca_file: FilePath | None = None
    """PEM certificate authorities that gRPC clients trust; those of the system if unset."""
    server_name: Host | None = None
    """Name that `gatehouse healthcheck` expects in the certificate of a server on this machine; its address,
    or a name in `certificate_file`, if unset."""
    plaintext: bool = False
    """Use plaintext instead of TLS, for servers and gRPC clients on loopback."""
    plaintext_beyond_loopback: bool = False
    """With `plaintext`: also use it on addresses other than loopback."""
    reload_seconds: float = Field(5.0, gt=0)
    """Shortest time between two checks for a changed certificate, key or CA file."""

    @model_validator(mode="after")
    def _check_plaintext(self) -> Self:
        if self.plaintext and self.certificate_file is not None:
            raise ValueError("plaintext is true, but certificate_file is set; remove one of them")
        return self


def _check_proxy_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be a URL such as http://proxy:3128 or http://user:password@proxy:3128")
    return value


ProxyUrl = Annotated[SecretStr, AfterValidator(_check_proxy_url)]


class _IssuerClient(Section):
    """Checks of the sections that name an issuer and a client there."""

    @model_validator(mode="before")
    @classmethod
    def _read_client_secret(cls, values: Any) -> Any:
        """Set `client_secret` from `client_secret_file`."""
        file = values.get("client_secret_file") if isinstance(values, dict) else None
        if not isinstance(file, str | Path):
            return values
        if values.get("client_secret") is not None:
            raise ValueError("client_secret and client_secret_file are both set; remove one of them")
        try:
            secret = read_secret_file(Path(file), "client_secret_file")
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return values | {"client_secret": secret}

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        given: dict[str, Any] = dict(self)
        for name in ("issuer", "discovery_url", "jwks_uri", "introspection_endpoint"):
            # With a discovery URL the issuer is only a name, to which nothing is sent.
            is_name = name == "issuer" and given["discovery_url"] is not None
            url = given.get(name)
            if url is not None and url_error(url, allow_http=given["allow_http"] or is_name):
                raise ValueError(f"{name} must be an https URL; http needs allow_http, except on loopback")
        return self


Audiences = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), BeforeValidator(as_tuple)
]


class IssuerSettings(_IssuerClient, ClaimSettings):
    """An issuer whose access tokens are accepted."""

    issuer: str
    """Issuer URL: the exact value of the `iss` claim."""
    mode: VerifyMode = "hybrid"
    """How tokens are verified: `jwt` by signature, `introspection` by asking the issuer, `hybrid` by both."""
    audience: Audiences
    """Value or list of values; the `aud` claim (or `audience_claim`) must contain one of them."""
    algorithms: tuple[Algorithm, ...] = Field(("ES256", "RS256"), min_length=1)
    """Accepted signature algorithms, asymmetric only."""
    discovery_url: str | None = None
    """URL of the discovery document, if not `<issuer>/.well-known/openid-configuration`."""
    jwks_uri: str | None = None
    """URL of the JSON Web Key Set, if not the one in the discovery document."""
    introspection_endpoint: str | None = None
    """URL of the introspection endpoint, if not the one in the discovery document."""
    client_id: str | None = None
    """Client that calls the introspection endpoint; required unless `mode` is `jwt`."""
    client_secret: SecretStr | None = None
    """Secret of that client."""
    client_secret_file: FilePath | None = None
    """File with the secret of that client."""
    revocation_budget_seconds: float = Field(30.0, ge=0, le=300)
    """How long a verified token is cached, and thus, in modes `hybrid` and `introspection`, how long a
    revoked token is still accepted; 0 introspects on every call."""
    leeway_seconds: float = Field(60.0, ge=0, le=300)
    """Accepted clock skew when the times in a token are checked."""
    claims: tuple[str, ...] = ("email", "email_verified", "name", "preferred_username")
    """Claims that handlers can read, in addition to identity, scopes and roles; all others are dropped after
    verification."""
    allow_http: bool = False
    """Allow plain HTTP to hosts other than loopback."""
    ca_file: FilePath | None = None
    """PEM certificate authorities to trust for this issuer, in addition to the system's."""
    proxy: ProxyUrl | None = None
    """URL of the HTTP proxy for requests to this issuer; `https_proxy` and the like are ignored."""
    timeout_seconds: float = Field(0.9, gt=0, le=5)
    """Timeout of a token verification with all its requests to the issuer; raise it for a slow issuer."""
    max_introspections: int = Field(50, ge=1)
    """Concurrent introspections in one process; further tokens wait, with turns by connection."""

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        if self.mode != "jwt" and not (self.client_id and self.client_secret):
            raise ValueError(f"mode {self.mode} needs client_id and client_secret")
        return self

    @model_validator(mode="after")
    def _check_provider(self) -> Self:
        layout = self.layout
        if self.mode not in layout.modes:
            raise ValueError(f"provider {self.provider} needs mode {' or '.join(layout.modes)}")
        if layout.only_id_tokens != self.accept_id_tokens:
            change = "needs accept_id_tokens" if layout.only_id_tokens else "has no use for accept_id_tokens"
            raise ValueError(f"provider {self.provider} {change}, see providers.md")
        if self.tenants and not layout.tenant_claim:
            raise ValueError("tenants needs tenant_claim")
        return self

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.issuer.count(TENANT) > 1 or not {"{", "}"}.isdisjoint(self.issuer.replace(TENANT, "")):
            raise ValueError(f"issuer may contain {TENANT} once, and no other braces")
        if TENANT in self.issuer:
            if not self.discovery_url and not self.jwks_uri:
                raise ValueError(f"issuer with {TENANT} needs discovery_url")
            if not self.tenants or not self.layout.tenant_claim:
                raise ValueError(f"issuer with {TENANT} needs tenant_claim, and tenants (* accepts each)")
        return self


class OAuthClientSettings(_IssuerClient):
    """An OAuth2 client with which a service gets its own access tokens."""

    issuer: str | None = None
    """Issuer of the client's tokens; the first of `ISSUERS` if unset."""
    discovery_url: str | None = None
    """URL of the discovery document, if not under the issuer."""
    client_id: str | None = None
    """Client id."""
    client_secret: SecretStr | None = None
    """Client secret."""
    client_secret_file: FilePath | None = None
    """File with the client secret."""
    scope: str = ""
    """Scopes to request, separated by spaces."""
    audience: str | None = None
    """`audience` to request; Auth0, Kinde and Ory need it."""
    resource: str = ""
    """Values of `resource` (RFC 8707) to request, separated by spaces."""
    allow_http: bool = False
    """Allow plain HTTP to hosts other than loopback."""
    ca_file: FilePath | None = None
    """PEM certificate authorities to trust for the issuer; those of the entry in `ISSUERS` if unset."""
    proxy: ProxyUrl | None = None
    """HTTP proxy for requests to the issuer; that of the entry in `ISSUERS` if unset."""


class DatabaseSettings(Section):
    """PostgreSQL connections. The URL of each service is a setting of that service."""

    migrate_url: DatabaseUrl = SecretStr("postgresql://postgres@127.0.0.1:5432/gatehouse")
    """URL for `gatehouse migrate`, with a role that can create schemas and roles."""
    migrate_password: SecretStr | None = None
    """Password of that role, if not in the URL."""
    pool_size: int = Field(10, ge=1)
    """Most connections in the pool of one service in one process; readiness checks and notifications use two
    more."""
    connect_timeout_seconds: Seconds = 2.0
    """Timeout for getting a connection, new or from the pool."""
    role_prefix: RolePrefix = "gatehouse"
    """Prefix of the login roles, such as `gatehouse_users`. Roles belong to the whole PostgreSQL server, so
    each installation on it needs its own prefix."""
    lock_timeout_seconds: Seconds = 10.0
    """Time that `gatehouse migrate` waits for another migration or for a table lock."""


class TelemetrySettings(Section):
    """Traces and metrics."""

    otlp_endpoint: OtlpEndpoint | None = None
    """OTLP/gRPC endpoint for spans, such as `https://collector:4317`; none are exported if unset. A `http`
    URL also needs `otlp_insecure`."""
    otlp_insecure: bool = False
    """Export spans without TLS."""
    export_seconds: Seconds = 5.0
    """Longest time that a finished span waits for export."""
    sample_ratio: float = Field(1.0, ge=0, le=1)
    """Fraction of new traces to sample; the sampling decision of the caller takes precedence."""
    metrics_host: Host = "127.0.0.1"
    """Address of the HTTP endpoint, which serves metrics and health."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port of the HTTP endpoint for Prometheus (`/metrics`) and probes (`/livez`, `/readyz`); disabled if
    unset; 0 picks a free port. With `--workers`, worker n (from 0) uses this port plus n."""

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        endpoint = self.otlp_endpoint or ""
        if endpoint.startswith("http:") and not self.otlp_insecure:
            raise ValueError("otlp_endpoint has no TLS; write https, or set otlp_insecure to true")
        if endpoint.startswith("https:") and self.otlp_insecure:
            raise ValueError("otlp_endpoint is https, but otlp_insecure is true; remove one of them")
        return self


class LogSettings(Section):
    """Log output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the log lines to write."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal, otherwise `json`."""


class ServiceSettings(Section):
    """Settings that every service has. `ServiceSpec` supplies the defaults of port and database URL."""

    port: int = Field(0, ge=0, le=65535)
    """Port of the service; 0 picks a free port."""
    database_url: DatabaseUrl = SecretStr("postgresql://127.0.0.1:5432/gatehouse")
    """Database URL of the service, as in operations.md. If it has no user, the login role is used."""
    database_password: SecretStr | None = None
    """Password of the login role, if not in the URL; `gatehouse migrate` sets it for the role."""


class StandbySettings(ServiceSettings):
    """Settings of a service that can read from standbys."""

    standby_url: DatabaseUrl | None = None
    """URL of hot standbys, which answer reads of callers that send `x-write-token` (see scaling.md); none if
    unset. Role and password are those of `database_url`, if not in this URL."""
    max_staleness_seconds: float = Field(5.0, ge=1, le=3600)
    """Maximum age of data from a standby."""


class Settings(BaseSettings):
    """The settings that every service shares. `gatehouse.app` adds one section for each service."""

    model_config = SettingsConfigDict(
        env_prefix="GATEHOUSE_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    issuers: tuple[IssuerSettings, ...] = ()
    database: DatabaseSettings = DatabaseSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log: LogSettings = LogSettings()

    @field_validator("issuers")
    @classmethod
    def _check_unique(cls, issuers: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
        if len({issuer.issuer for issuer in issuers}) < len(issuers):
            raise ValueError("two entries have the same issuer; merge them, with a list as their audience")
        return issuers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the secrets directory, with lower precedence than the environment."""
        del settings_cls, dotenv_settings
        directory = os.environ.get("GATEHOUSE_SECRETS_DIR")
        if not directory:
            return init_settings, env_settings
        return init_settings, env_settings, secrets_source(file_secret_settings, directory)


def secrets_source(source: PydanticBaseSettingsSource, directory: str) -> NestedSecretsSettingsSource:
    """Return the source that reads secrets from files such as `gatehouse_users__database_password`."""
    return NestedSecretsSettingsSource(
        source,
        secrets_dir=directory,
        secrets_dir_missing="error",
        secrets_prefix="gatehouse_",
        secrets_nested_delimiter="__",
    )
