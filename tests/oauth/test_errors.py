"""The tree of errors: what is the caller's to mend, and the codes of RFC 6750 and RFC 9470."""

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
def test_refusal_has_the_code_of_its_rfc_and_says_only_its_reason(kind: type[Refusal], code: str) -> None:
    error = kind("some_reason")

    assert (error.code, error.reason, str(error)) == (code, "some_reason", "some_reason")
    assert isinstance(error, OAuthError)


def test_outage_and_failed_request_are_no_refusals() -> None:
    assert not isinstance(IssuerUnavailable("keys_timeout"), Refusal)
    assert not isinstance(TokenRequestFailed("invalid_client"), Refusal)
    assert IssuerUnavailable("keys_timeout").retry_after is None


def test_refusals_say_what_is_needed() -> None:
    assert InsufficientScope("scope_missing", ["admin", "read:users"]).scopes == ("admin", "read:users")
    weak = InsufficientUserAuthentication("acr_missing", "mfa", 300)
    assert (weak.acr_values, weak.max_age) == ("mfa", 300)


def test_nobody_needs_to_listen() -> None:
    NoObserver().verified("cache")
    NoObserver().keys_refreshed(ok=False)
