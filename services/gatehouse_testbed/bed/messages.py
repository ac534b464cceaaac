"""The JSON of the control API: what a test sends and gets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from gatehouse_testbed.bed.bed import Bed


class Request(BaseModel):
    """What a test sends. A misspelled member is an error, and not ignored."""

    model_config = ConfigDict(extra="forbid")


class BedDescription(BaseModel):
    """Everything that a test needs to know."""

    control_url: str
    """URL of this API."""
    issuer: str
    """Issuer URL."""
    targets: dict[str, str]
    """gRPC target of each service, by its name; empty if the test bed is only an issuer."""
    ca_file: str
    """PEM file with the certificate authority of the services; "" if there are none."""
    ca_certificate: str
    """Content of that file."""
    users: dict[str, str]
    """Id of the entry in UserService of each user of the realm, by user name."""
    clients: dict[str, str]
    """Secrets of the clients of the realm, by client id."""
    passwords: dict[str, str]
    """Passwords of the users of the realm, by user name."""


class Token(Request):
    """An access token, or what a client sends in its place."""

    token: str


class TokenKind(BaseModel):
    """A kind of token."""

    accepted: bool
    """Whether a correct resource server accepts it."""
    description: str
    """What is wrong with it, and the source of the rule."""


class FaultId(BaseModel):
    """A fault that was added."""

    id: str


class Clock(BaseModel):
    """The clock of issuer and services."""

    ahead_seconds: float
    """How far it is ahead of the real time."""
    issuer_skew_seconds: float
    """How far that of the issuer is ahead of that of the services."""


class Advance(Request):
    """How far to move the clock."""

    seconds: float = Field(gt=0, le=10 * 366 * 86_400)


class Skew(Request):
    """How wrong the clock of the issuer is."""

    seconds: float = Field(ge=-86_400, le=86_400)
    """How far it is ahead of that of the services; it is behind if negative."""


class Rotation(Request):
    """How to replace the signing keys of the issuer."""

    overlap: bool = True
    """Whether the keys that signed until now are still published and verify tokens."""


def describe(bed: Bed, control_url: str) -> BedDescription:
    """Return everything that a test needs to know."""
    profile = bed.profile
    authority = profile.ca_file
    return BedDescription(
        control_url=control_url,
        issuer=profile.issuer,
        targets=dict(bed.targets),
        ca_file=str(authority or ""),
        ca_certificate="" if authority is None else authority.read_text(encoding="ascii"),
        users=dict(bed.users),
        clients={name: secret.get_secret_value() for name, secret in profile.clients.items()},
        passwords={name: secret.get_secret_value() for name, secret in profile.passwords.items()},
    )
