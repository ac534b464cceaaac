"""Errors raised while a token is verified (RFC 6750 section 3.1, RFC 9470 section 3).

    OAuthError
    ├── Refusal                                 the caller has to fix it
    │   ├── InvalidRequest                      invalid_request
    │   ├── InvalidToken                        invalid_token
    │   ├── InsufficientScope                   insufficient_scope
    │   └── InsufficientUserAuthentication      insufficient_user_authentication
    ├── IssuerUnavailable                       not the caller's fault; retry later
    │   └── IssuerUnreachable                   no response, or 429, 502, 503, 504
    └── TokenRequestFailed                      error response of a token endpoint (RFC 6749 section 5.2)

No error text contains a token, a secret or the value of a claim.
"""

from __future__ import annotations

from collections.abc import Sequence


class OAuthError(Exception):
    """Base class of all errors of this package."""


class Refusal(OAuthError):
    """The call is refused; `code` is the `error` of the `www-authenticate` challenge.

    Args:
        reason: A short constant in snake_case, for metrics and ErrorInfo, such as `token_expired`.
    """

    code = "invalid_token"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidRequest(Refusal):
    """The credentials are malformed: repeated, too long, or not a b64token (RFC 6750 section 3.1)."""

    code = "invalid_request"


class InvalidToken(Refusal):
    """The token is expired, revoked, malformed, or not for this service (RFC 6750 section 3.1)."""

    code = "invalid_token"


class InsufficientScope(Refusal):
    """The token is valid but lacks a scope or role (RFC 6750 section 3.1).

    Args:
        reason: See Refusal.
        scopes: The scopes that the call needs, not those that the token has.
    """

    code = "insufficient_scope"

    def __init__(self, reason: str, scopes: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.scopes = tuple(scopes)


class InsufficientUserAuthentication(Refusal):
    """The login behind the token is too weak or too old (RFC 9470 section 3).

    Args:
        reason: See Refusal.
        acr_values: Value of the `acr_values` request parameter for the next login, or "".
        max_age: Maximum age of the login in seconds, or None.
    """

    code = "insufficient_user_authentication"

    def __init__(self, reason: str, acr_values: str = "", max_age: int | None = None) -> None:
        super().__init__(reason)
        self.acr_values = acr_values
        self.max_age = max_age


class IssuerUnavailable(OAuthError):
    """The issuer gave no valid response, so the token cannot be verified.

    Args:
        reason: A short constant in snake_case, such as `introspection_timeout`.
        retry_after: Seconds from the Retry-After header (RFC 9110 section 10.2.3), or None.
        detail: For operators: which URL, and what happened there. Callers must not see it.
    """

    def __init__(self, reason: str, retry_after: float | None = None, *, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.detail = detail


class IssuerUnreachable(IssuerUnavailable):
    """The issuer gave no HTTP response, or responded that it accepts no requests now."""


class TokenRequestFailed(OAuthError):
    """A token endpoint returned an error (RFC 6749 section 5.2).

    Args:
        error: The `error` code of the response, such as `invalid_client`.
        detail: See IssuerUnavailable.
    """

    def __init__(self, error: str, *, detail: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.detail = detail
