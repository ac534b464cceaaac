"""The error classes and their codes (RFC 6750, RFC 9470)."""

from __future__ import annotations

import pytest

from gatehouse.oauth import (
    InsufficientScope,
    InsufficientUserAuthentication,
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
    NoObserver,
    OAuthError,
    Refusal,
    TokenRequestFailed,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InvalidRequest, "invalid_request"),
        (InvalidToken, "invalid_token"),
        (InsufficientScope, "insufficient_scope"),
        (InsufficientUserAuthentication, "insufficient_user_authentication"),
    ],
)
def test_refusal_has_the_error_code_of_its_rfc(kind: type[Refusal], code: str) -> None:
    error = kind("some_reason")

    assert (error.code, error.reason, str(error)) == (code, "some_reason", "some_reason")
    assert isinstance(error, OAuthError)


def test_outages_and_failed_token_requests_are_not_refusals() -> None:
    assert not isinstance(IssuerUnavailable("keys_timeout"), Refusal)
    assert not isinstance(TokenRequestFailed("invalid_client"), Refusal)
    assert IssuerUnavailable("keys_timeout").retry_after is None


def test_refusal_states_what_the_caller_needs() -> None:
    assert InsufficientScope("scope_missing", ["admin", "read:users"]).scopes == ("admin", "read:users")
    error = InsufficientUserAuthentication("acr_missing", "mfa", 300)
    assert (error.acr_values, error.max_age) == ("mfa", 300)


def test_no_observer_ignores_notifications() -> None:
    NoObserver().verified("cache")
    NoObserver().issuer_asked("https://id.test", "keys", None)
