"""What a caller needs: token sources, channels that authorize calls, JSON calls, health checks, profiles."""

from gatehouse.client.channel import connect
from gatehouse.client.client_credentials import (
    ClientCredentials,
    TokenResponse,
    introspect,
    request_token,
    revoke,
)
from gatehouse.client.tls import ClientTls
from gatehouse.client.token_source import TokenSource

__all__ = [
    "ClientCredentials",
    "ClientTls",
    "TokenResponse",
    "TokenSource",
    "connect",
    "introspect",
    "request_token",
    "revoke",
]
