"""Options that name a client at an issuer, and how they become its registration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from gatehouse.cli._prompt import STANDARD_INPUT, ask_secret
from gatehouse.client.profile import Profile
from gatehouse.client.registration import AuthMethod, Registration, registration_in
from gatehouse.settings import ConfigurationError, validation_message

Issuer = Annotated[str | None, typer.Option(help="URL of the issuer; by default that of the profile.")]
ClientId = Annotated[str | None, typer.Option(help="Client id; by default that of the profile.")]
Auth = Annotated[
    AuthMethod | None,
    typer.Option(help="How the client authenticates; by default what the files below are for."),
]
ClientSecretFile = Annotated[
    Path | None, typer.Option(help="File with the secret of the client; - asks, or reads standard input.")
]
PrivateKeyFile = Annotated[
    Path | None, typer.Option(help="PEM key that signs for the client, or is that of its certificate.")
]
CertificateFile = Annotated[
    Path | None, typer.Option(help="PEM certificate of the client, for mutual TLS (RFC 8705).")
]
KeyId = Annotated[str | None, typer.Option(help="Id of the private key at the issuer.")]
Algorithm = Annotated[str | None, typer.Option(help="Signature algorithm of the private key.")]
DiscoveryUrl = Annotated[
    str | None, typer.Option(help="URL of the discovery document, if not under the issuer.")
]
CaFile = Annotated[Path | None, typer.Option(help="PEM certificate authorities to trust for the issuer.")]
Audience = Annotated[str | None, typer.Option(help="Audience to request, which some issuers need.")]
Resource = Annotated[str | None, typer.Option(help="Resource to request (RFC 8707).")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What the user has said about a client; None for what was left out. See Registration."""

    issuer: str | None
    client_id: str | None
    auth: AuthMethod | None
    client_secret_file: Path | None
    private_key_file: Path | None
    certificate_file: Path | None
    key_id: str | None
    algorithm: str | None
    discovery_url: str | None
    ca_file: Path | None
    scope: str | None = None
    audience: str | None = None
    resource: str | None = None

    @property
    def name_a_client(self) -> bool:
        """Whether they name an issuer or a client."""
        return self.issuer is not None or self.client_id is not None

    def registration(
        self, profile: Profile, stored: Registration | None = None, *, confidential: bool = False
    ) -> Registration:
        """Return the registration: these options, on those of a stored login or of the profile.

        Args:
            profile: Issuer and console client, if the options name none.
            stored: Registration of the stored login to use instead, if the options name none.
            confidential: Whether the client must authenticate.

        Raises:
            ConfigurationError: An option is missing or invalid.
        """
        given = {
            field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None
        }
        if given.get("client_secret_file") == STANDARD_INPUT:
            del given["client_secret_file"]
        if stored is not None and not self.name_a_client:
            base: dict[str, Any] = stored.model_dump()
        elif self.issuer in {None, profile.issuer}:
            base = registration_in(profile, self.client_id).model_dump()
        elif self.client_id is None:
            raise ConfigurationError("--issuer: name the client that is registered there with --client-id")
        else:
            base = {}
        auth = self.auth or self._auth() or base.get("auth", "none")
        if confidential and auth == "none":
            auth = "client_secret_basic"
        try:
            return Registration.model_validate(base | given | {"auth": auth})
        except ValidationError as error:
            raise ConfigurationError(f"invalid option: {validation_message(error)}") from None

    def secret(self, registration: Registration, profile: Profile) -> str:
        """Return the secret of the client, "" if it needs none, or it is in a file.

        Raises:
            ConfigurationError: There is no terminal to ask in.
        """
        if not registration.needs_secret:
            return ""
        known = profile.clients.get(registration.client_id)
        if known is not None and registration.issuer == profile.issuer and self.client_secret_file is None:
            return known.get_secret_value()
        what = f"Secret of client {registration.client_id}"
        return ask_secret(what, "--client-secret-file", self.client_secret_file)

    def _auth(self) -> AuthMethod | None:
        if self.certificate_file is not None:
            return "tls_client_auth"
        if self.private_key_file is not None:
            return "private_key_jwt"
        return None if self.client_secret_file is None else "client_secret_basic"
