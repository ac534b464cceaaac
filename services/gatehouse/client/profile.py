"""The profile: a file with everything that the command line needs to call a running system."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError

from gatehouse.settings import (
    ConfigurationError,
    GrpcTarget,
    ProxyUrl,
    Section,
    environment,
    validation_message,
)


class Profile(Section):
    """Where a running system is, and how to get tokens for it."""

    issuer: str = "http://127.0.0.1:8080/realms/gatehouse"
    """Issuer of the access tokens."""
    discovery_url: str | None = None
    """URL of the discovery document, if not under `issuer`."""
    revocation_endpoint: str | None = None
    """URL of the revocation endpoint, if not the one in the discovery document."""
    targets: dict[str, GrpcTarget] = Field(default_factory=dict)
    """gRPC target of each service, by service name."""
    ca_file: Path | None = None
    """PEM certificate authorities to trust in addition to the system's; relative to this file."""
    # <part console>
    public_targets: dict[str, GrpcTarget] = Field(default_factory=dict)
    """Targets in the commands that the console shows, if they differ from `targets`, as in containers."""
    public_ca_file: Path | None = None
    """CA file in these commands, if it is not `ca_file`."""
    # </part console>
    server_name: str | None = None
    """Name in the certificates of the services, if it is not that of their targets."""
    proxy: ProxyUrl | None = None
    """HTTP proxy for requests to the issuer; those of the environment are never used."""
    audience: str = ""
    """`audience` to request, which Auth0, Kinde and Ory need."""
    resource: str = ""
    """`resource` (RFC 8707) to request."""
    plaintext: bool = False
    """Call the services without TLS."""
    console_client: str = "gatehouse-console"
    """Public client that gets tokens for users."""
    api_client: str = "gatehouse-api"
    """Client of the services, for introspection."""
    clients: dict[str, SecretStr] = Field(default_factory=dict)
    """Secrets of clients, by client id. Demo realm only."""
    passwords: dict[str, SecretStr] = Field(default_factory=dict)
    """Passwords of users, by user name. Demo realm only."""
    traces_url: str | None = None
    """URL of a Jaeger query API."""
    # <part console>
    prometheus_url: str | None = None
    """URL of a Prometheus that scrapes the services."""
    # </part console>
    metrics: dict[str, str] = Field(default_factory=dict)
    """Prometheus endpoint of each service, by service name."""
    logs: dict[str, Path] = Field(default_factory=dict)
    """JSON log file of each service, by service name; relative to this file."""
    issuer_admin_user: str = "admin"
    """User of the issuer's admin API, which the tour uses to rotate the signing key."""
    issuer_admin_password: SecretStr | None = None
    """Password of that user."""
    revocation_budget_seconds: float | None = Field(30.0, ge=0, le=300)
    """Revocation budget that the services are configured with; null if they do not ask the issuer."""

    @property
    def proxy_url(self) -> str | None:
        """`proxy` in clear."""
        return self.proxy.get_secret_value() if self.proxy else None


ADD_TO_PROFILE = (
    "set GATEHOUSE_PROFILE to the file that `make serve` or `make compose-profile` writes, or add it there"
)


_ANY_ADDRESS = {"0.0.0.0", "::", "[::]"}  # noqa: S104 - compared only


def local_host(host: str) -> str:
    """Return the host to which a client on this machine connects if a server listens on `host`."""
    return "127.0.0.1" if host in _ANY_ADDRESS else host.strip("[]")


def local_target(host: str, port: int) -> str:
    """Return the target for a client on this machine of a server that listens on `host`."""
    host = local_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def profile_file() -> Path | None:
    """Return the file named by `GATEHOUSE_PROFILE`, None if it is unset."""
    name = environment().get("GATEHOUSE_PROFILE")
    return Path(name) if name else None


def load_profile() -> Profile:
    """Load the file named by `GATEHOUSE_PROFILE`; return the defaults if it is unset.

    Raises:
        ConfigurationError: The file cannot be read or is invalid.
    """
    file = profile_file()
    if file is None:
        return Profile()
    try:
        profile = Profile.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{file}: cannot read the profile ({error.strerror}); `make serve` writes one and prints its path"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(f"{file}: {validation_message(error, Profile.model_fields)}") from None
    found: dict[str, object] = {"logs": {name: file.parent / log for name, log in profile.logs.items()}}
    if profile.ca_file is not None:
        found["ca_file"] = file.parent / profile.ca_file
    return profile.model_copy(update=found)
