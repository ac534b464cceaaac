"""What the command line stores about a client of an issuer, without secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gatehouse.client.client_auth import (
    ClientAuth,
    ClientSecretBasic,
    ClientSecretPost,
    PublicClient,
    Secret,
    TlsClientAuth,
)
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.private_key_jwt import PrivateKeyJwt
from gatehouse.client.profile import Profile
from gatehouse.oauth import ClientCertificate, open_http
from gatehouse.settings import ConfigurationError, Section, read_secret_file

AuthMethod = Literal[
    "none", "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"
]
File = Annotated[Path, AfterValidator(Path.absolute)]


class Registration(Section):
    """A client at an issuer, and what to request for it."""

    issuer: str
    """The issuer."""
    client_id: Annotated[str, Field(min_length=1)]
    """Client id."""
    auth: AuthMethod = "none"
    """How the client authenticates."""
    client_secret_file: File | None = None
    """File with the secret of the client; without it, the secret is kept with the tokens."""
    private_key_file: File | None = None
    """PEM private key, for `private_key_jwt` and `tls_client_auth`."""
    certificate_file: File | None = None
    """PEM certificate, for `tls_client_auth`."""
    key_id: str = ""
    """`kid` of the private key at the issuer."""
    algorithm: str = "ES256"
    """Signature algorithm of the private key."""
    discovery_url: str | None = None
    """URL of the discovery document, if not under `issuer`."""
    revocation_endpoint: str | None = None
    """URL of the revocation endpoint, if not the one in the discovery document."""
    ca_file: File | None = None
    """PEM certificate authorities to trust in addition to the system's."""
    scope: str = ""
    """Scopes to request, separated by spaces."""
    audience: str = ""
    """`audience` to request, which some issuers need."""
    resource: str = ""
    """`resource` (RFC 8707) to request."""

    @property
    def needs_secret(self) -> bool:
        """Whether the client has a secret that is in no file."""
        return self.auth in {"client_secret_basic", "client_secret_post"} and self.client_secret_file is None

    @property
    def targets(self) -> dict[str, str]:
        """`audience` and `resource`, as parameters of a request."""
        values = {"audience": self.audience, "resource": self.resource}
        return {name: value for name, value in values.items() if value}


def registration_in(profile: Profile, client_id: str | None = None) -> Registration:
    """Return the registration of a client of a profile; None is the console client."""
    return Registration(
        issuer=profile.issuer,
        client_id=client_id or profile.console_client,
        auth="none" if client_id in {None, profile.console_client} else "client_secret_basic",
        discovery_url=profile.discovery_url,
        revocation_endpoint=profile.revocation_endpoint,
        ca_file=profile.ca_file,
        audience=profile.audience,
        resource=profile.resource,
    )


@asynccontextmanager
async def open_client(
    registration: Registration, *, secret: str = "", proxy: str | None = None
) -> AsyncIterator[OAuthClient]:
    """Open a client.

    Args:
        registration: The client.
        secret: Its secret, if that is in no file.
        proxy: URL of an HTTP proxy for requests to the issuer.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    certificate = None
    if registration.auth == "tls_client_auth":
        certificate = ClientCertificate(
            _needed(registration.certificate_file, "certificate", registration),
            _needed(registration.private_key_file, "private key", registration),
        )
    auth = _client_auth(registration, secret)
    async with open_http(registration.ca_file, proxy, certificate=certificate) as http:
        yield OAuthClient(
            http,
            registration.client_id,
            auth,
            issuer=registration.issuer,
            discovery_url=registration.discovery_url,
        )


def _client_auth(registration: Registration, secret: str) -> ClientAuth:
    match registration.auth:
        case "none":
            return PublicClient()
        case "tls_client_auth":
            return TlsClientAuth()
        case "private_key_jwt":
            file = _needed(registration.private_key_file, "private key", registration)
            key = _read(file, "private key")
            return PrivateKeyJwt(key, registration.key_id, registration.algorithm)
        case "client_secret_basic":
            return ClientSecretBasic(_secret(registration, secret))
        case "client_secret_post":
            return ClientSecretPost(_secret(registration, secret))


def _secret(registration: Registration, secret: str) -> Secret:
    file = registration.client_secret_file
    return secret if file is None else _read(file, "client secret")


def _read(file: Path, name: str) -> Secret:
    read_secret_file(file, name)  # fails now rather than in the first request
    return lambda: read_secret_file(file, name)


def _needed(file: Path | None, what: str, registration: Registration) -> Path:
    if file is None:
        raise ConfigurationError(
            f"{registration.auth} of client {registration.client_id}: name the {what} file"
        )
    return file
