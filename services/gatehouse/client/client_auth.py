"""How a client authenticates at the token endpoint (RFC 6749 section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Secret = str | Callable[[], str]
"""A secret, or what reads it for each request, so that it can be replaced while the program runs."""


def read_secret(secret: Secret) -> str:
    """Return the present value of a secret."""
    return secret if isinstance(secret, str) else secret()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client adds to one request: Basic credentials, fields of the form, or both."""

    basic: tuple[str, str] | None = field(default=None, repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)


class ClientAuth(Protocol):
    """Authenticates a client."""

    def credentials(self, client_id: str, audience: str) -> Credentials:
        """Return the credentials of one request; `audience` names the issuer, or the token endpoint."""
        ...


class PublicClient:
    """A client without a secret, such as a program on the computer of a user."""

    def credentials(self, client_id: str, audience: str) -> Credentials:  # noqa: ARG002 - see ClientAuth
        """See ClientAuth."""
        return Credentials(fields={"client_id": client_id})


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """`client_secret_basic`: the secret in the `authorization` header."""

    secret: Secret = field(repr=False)

    def credentials(self, client_id: str, audience: str) -> Credentials:  # noqa: ARG002 - see ClientAuth
        """See ClientAuth."""
        return Credentials(basic=(client_id, read_secret(self.secret)))


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """`client_secret_post`: the secret in the form, for issuers that do not take it in the header."""

    secret: Secret = field(repr=False)

    def credentials(self, client_id: str, audience: str) -> Credentials:  # noqa: ARG002 - see ClientAuth
        """See ClientAuth."""
        return Credentials(fields={"client_id": client_id, "client_secret": read_secret(self.secret)})


class TlsClientAuth:
    """`tls_client_auth` (RFC 8705 section 2.1): the certificate of the TLS connection authenticates.

    Open the HTTP client with this certificate: `open_http(certificate=ClientCertificate(...))`. A self-signed
    certificate works in the same way (`self_signed_tls_client_auth`).
    """

    def credentials(self, client_id: str, audience: str) -> Credentials:  # noqa: ARG002 - see ClientAuth
        """See ClientAuth."""
        return Credentials(fields={"client_id": client_id})
