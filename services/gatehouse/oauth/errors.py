"""What can go wrong between a token and a principal (RFC 6750 section 3.1, RFC 9470 section 3).

    OAuthError
    ├── Refusal                                 the caller's to mend
    │   ├── InvalidRequest                      invalid_request
    │   ├── InvalidToken                        invalid_token
    │   ├── InsufficientScope                   insufficient_scope
    │   └── InsufficientUserAuthentication      insufficient_user_authentication
    ├── IssuerUnavailable                       not the caller's fault
    │   └── IssuerUnreachable                   no response at all, or "not now"
    └── TokenRequestFailed                      a token endpoint answered with an error (RFC 6749 section 5.2)

No error text ever holds a token, a secret or the value of a claim.
"""

from __future__ import annotations

from collections.abc import Sequence


class OAuthError(Exception):
    """Anything that this room raises on purpose."""


class Refusal(OAuthError):
    """The caller is refused; `code` is the `error` of the `www-authenticate` challenge.

    Args:
        reason: A short constant in snake_case, for metrics and ErrorInfo, such as `token_expired`.
    """

    code = "invalid_token"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidRequest(Refusal):
    """The credentials are malformed: repeated, oversize, not the b64token grammar (RFC 6750 section 3.1)."""

    code = "invalid_request"


class InvalidToken(Refusal):
    """The token is expired, revoked, malformed, or not for here (RFC 6750 section 3.1)."""

    code = "invalid_token"


class InsufficientScope(Refusal):
    """The token is good and not enough (RFC 6750 section 3.1).

    Args:
        reason: As in Refusal.
        scopes: The scopes that the call needs; never those that the token has.
    """

    code = "insufficient_scope"

    def __init__(self, reason: str, scopes: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.scopes = tuple(scopes)


class InsufficientUserAuthentication(Refusal):
    """The login behind the token is too weak or too old (RFC 9470 section 3).

    Args:
        reason: As in Refusal.
        acr_values: What to ask for at the authorization endpoint, or empty.
        max_age: Greatest age of the login in seconds, or None.
    """

    code = "insufficient_user_authentication"

    def __init__(self, reason: str, acr_values: str = "", max_age: int | None = None) -> None:
        super().__init__(reason)
        self.acr_values = acr_values
        self.max_age = max_age


class IssuerUnavailable(OAuthError):
    """The issuer could not be asked, so nothing is known about the token.

    Args:
        reason: A short constant in snake_case, such as `introspection_timeout`.
        retry_after: Seconds that the issuer wants to be left alone (RFC 9110 section 10.2.3), or None.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class IssuerUnreachable(IssuerUnavailable):
    """The issuer gave no HTTP response, or said that it takes no requests at present."""


class TokenRequestFailed(OAuthError):
    """A token endpoint refused (RFC 6749 section 5.2).

    Args:
        error: The `error` code of the answer, such as `invalid_client`.
    """

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error
