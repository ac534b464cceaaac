"""From access token to principal. No gRPC, no SQL, no web framework."""

from gatehouse.oauth._cache import TokenCache, TokenHasher
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import request_url_error, send_bounded
from gatehouse.oauth._http_failure import HttpFailure
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
from gatehouse.oauth.http_client import ClientCertificate, open_http
from gatehouse.oauth.keys import backoff_seconds
from gatehouse.oauth.multi_issuer import MultiIssuerVerifier
from gatehouse.oauth.observer import NoObserver, Observer, Source
from gatehouse.oauth.presented_token import (
    MAX_AUTHORIZATION_CHARS,
    PresentedToken,
    is_b64token,
    parse_authorization,
)
from gatehouse.oauth.principal import Actor, Principal, VerifiedClaims
from gatehouse.oauth.tracing import TracedTransport
from gatehouse.oauth.verifier import Precheck, TokenVerifier, no_precheck

__all__ = [
    "MAX_AUTHORIZATION_CHARS",
    "Actor",
    "ClientCertificate",
    "HttpFailure",
    "InsufficientScope",
    "InsufficientUserAuthentication",
    "InvalidRequest",
    "InvalidToken",
    "IssuerUnavailable",
    "Metadata",
    "MultiIssuerVerifier",
    "NoObserver",
    "OAuthError",
    "Observer",
    "Precheck",
    "PresentedToken",
    "Principal",
    "Refusal",
    "SingleFlight",
    "Source",
    "TokenCache",
    "TokenHasher",
    "TokenRequestFailed",
    "TokenVerifier",
    "TracedTransport",
    "VerifiedClaims",
    "backoff_seconds",
    "discover",
    "is_b64token",
    "no_precheck",
    "open_http",
    "parse_authorization",
    "request_url_error",
    "send_bounded",
]
