"""From access token to principal, and token sources for clients. No gRPC, no SQL, no web framework."""

from gatehouse.oauth._http import url_fault
from gatehouse.oauth.client import ClientCredentials, TokenResponse, introspect, request_token, revoke
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.discovery import Metadata, discover
from gatehouse.oauth.errors import (
    InsufficientScope,
    InsufficientUserAuthentication,
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
    OAuthError,
    Refusal,
    TokenRequestFailed,
)
from gatehouse.oauth.observer import NoObserver, Observer
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.tracing import TracedTransport
from gatehouse.oauth.verifier import TokenSource, TokenVerifier
from gatehouse.oauth.verifiers import Verifiers

__all__ = [
    "ClientCredentials",
    "InsufficientScope",
    "InsufficientUserAuthentication",
    "InvalidRequest",
    "InvalidToken",
    "IssuerConfig",
    "IssuerUnavailable",
    "Metadata",
    "NoObserver",
    "OAuthError",
    "Observer",
    "Principal",
    "Refusal",
    "TokenRequestFailed",
    "TokenResponse",
    "TokenSource",
    "TokenVerifier",
    "TracedTransport",
    "VerifiedClaims",
    "Verifiers",
    "discover",
    "introspect",
    "request_token",
    "revoke",
    "url_fault",
]
