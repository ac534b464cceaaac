"""What a test asks for when it wants a token."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gatehouse_testbed.errors import TestbedError

CONSOLE = "gatehouse-console"


class UnknownName(TestbedError):
    """There is no such user, client, scope or kind of token; the message is for people."""

    exit_code = 2


class TokenRequest(BaseModel):
    """What a token is to contain; by default what the issuer gives to `client`."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = None
    """User name; the service account of the client if unset."""
    client: str = CONSOLE
    """Client id."""
    scope: str = ""
    """Scopes to request, separated by spaces; all that the client may request if empty."""
    lifetime_seconds: int | None = None
    """From now; negative for a token that has expired. That of the client if unset."""
    algorithm: str | None = None
    """ES256 or RS256; that of the client if unset."""
    header: dict[str, Any] = Field(default_factory=dict)
    """Members of the JOSE header that are replaced, such as `typ`."""
    claims: dict[str, Any] = Field(default_factory=dict)
    """Claims that are added or replaced; null removes one."""
    name: str = "valid"
    """Kind of token: one of the named tokens."""
