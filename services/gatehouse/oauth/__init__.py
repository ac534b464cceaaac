"""From access token to principal. No gRPC, no SQL, no web framework."""

from gatehouse.oauth._http import url_fault
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
from gatehouse.oauth.verifier import TokenVerifier
from gatehouse.oauth.verifiers import Verifiers
from gatehouse.settings import is_loopback

__all__ = [
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
    "TokenVerifier",
    "TracedTransport",
    "VerifiedClaims",
    "Verifiers",
    "discover",
    "is_loopback",
    "url_fault",
]
