"""Why there is no token although no issuer refused one."""

from __future__ import annotations

from pathlib import Path

from gatehouse.oauth import OAuthError


class LoginRequired(OAuthError):
    """There is no login, or it has ended: the user has to log in.

    Args:
        error: The `error` code with which the issuer ended the login, such as `invalid_grant`; `expired` if
            it ended without; "" if there was no login.
    """

    def __init__(self, error: str = "") -> None:
        super().__init__(
            f"the login has ended ({error}); log in again" if error else "no login; log in first"
        )
        self.error = error


class LoginCancelled(OAuthError):
    """The user did not log in.

    Args:
        reason: `access_denied` if the user declined, `expired_token` or `timeout` if the time was over.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the user did not log in ({reason})")
        self.reason = reason


class TokenStoreError(OAuthError):
    """Stored tokens cannot be read or written; the text says where, and why."""


class TokenFileError(TokenStoreError):
    """A file with a token or a login cannot be used.

    Args:
        path: The file.
        problem: What is wrong with it.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
