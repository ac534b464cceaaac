"""Every setting of Gatehouse, typed; the only place that reads the environment.

Names: prefix `GATEHOUSE_`, `__` between levels, such as `GATEHOUSE_SERVER__USERS_PORT=50051`.
A secret may stand in a file of that name (lower case) in the folder `GATEHOUSE_SECRETS_DIR`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VerifyMode(StrEnum):
    """How tokens of an issuer are verified."""

    JWT = "jwt"
    INTROSPECTION = "introspection"
    HYBRID = "hybrid"


class ServerSettings(_Section):
    """Where the services listen and what they bear."""

    host: str = "127.0.0.1"
    users_port: int = Field(50051, ge=0, le=65535)
    admin_port: int = Field(50052, ge=0, le=65535)
    public_port: int = Field(50053, ge=0, le=65535)
    reflection: bool = False
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    max_metadata_bytes: int = Field(16 * 1024, ge=1024)
    max_concurrent_streams: int = Field(100, ge=1)
    max_concurrent_rpcs: int = Field(1000, ge=1)
    max_connection_age_seconds: float = Field(1800.0, gt=0)
    max_connection_age_grace_seconds: float = Field(30.0, gt=0)
    max_deadline_seconds: float = Field(30.0, gt=0)
    max_stream_deadline_seconds: float = Field(3600.0, gt=0)
    drain_seconds: float = Field(20.0, ge=0)
    recheck_seconds: float = Field(30.0, gt=0)


class TlsSettings(_Section):
    """TLS of the services and of channels. Plaintext takes two settings beyond loopback."""

    certificate_file: Path | None = None
    private_key_file: Path | None = None
    ca_file: Path | None = None
    plaintext: bool = False
    plaintext_beyond_loopback: bool = False
    reload_seconds: float = Field(5.0, gt=0)


class IssuerSettings(_Section):
    """One issuer whose tokens are accepted.

    `issuer` is what `iss` must be; `discovery_url` is where its metadata is reached, when that is elsewhere.
    """

    issuer: str
    provider: Literal["keycloak", "auth0", "okta"] = "keycloak"
    mode: VerifyMode = VerifyMode.HYBRID
    audience: str
    algorithms: tuple[str, ...] = ("ES256", "RS256")
    discovery_url: str | None = None
    jwks_uri: str | None = None
    introspection_endpoint: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    revocation_budget_seconds: float = Field(30.0, ge=0, le=300)
    leeway_seconds: float = Field(60.0, ge=0, le=300)
    allow_http: bool = False
    ca_file: Path | None = None


class ClientSettings(_Section):
    """The OAuth client that AdminService uses towards UserService."""

    issuer: str | None = None
    discovery_url: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scope: str = "read:users"
    users_target: str = "127.0.0.1:50051"
    allow_http: bool = False


class DatabaseSettings(_Section):
    """PostgreSQL. One address per login role; `{role}` in none of them is guessed."""

    users_url: SecretStr = SecretStr("postgresql://gatehouse_users@127.0.0.1:5432/gatehouse")
    admin_url: SecretStr = SecretStr("postgresql://gatehouse_admin@127.0.0.1:5432/gatehouse")
    public_url: SecretStr = SecretStr("postgresql://gatehouse_public@127.0.0.1:5432/gatehouse")
    migrate_url: SecretStr = SecretStr("postgresql://postgres@127.0.0.1:5432/gatehouse")
    users_password: SecretStr | None = None
    admin_password: SecretStr | None = None
    public_password: SecretStr | None = None
    pool_size: int = Field(10, ge=1)
    connect_timeout_seconds: float = Field(2.0, gt=0)
    lock_timeout_seconds: float = Field(10.0, gt=0)


class TelemetrySettings(_Section):
    """Traces and metrics."""

    otlp_endpoint: str | None = None
    otlp_insecure: bool = False
    sample_ratio: float = Field(1.0, ge=0, le=1)
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535)


class LogSettings(_Section):
    """Log lines."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


ServiceName = Annotated[Literal["users", "admin", "public"], "A service of this application"]
