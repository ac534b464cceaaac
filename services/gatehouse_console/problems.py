"""What a page says when a request fails: what is wrong, where, and what to do."""

from __future__ import annotations

from gatehouse.client import LoginCancelled
from gatehouse.oauth import IssuerUnavailable, OAuthError


class Problem(Exception):
    """Ends a request with a page.

    Args:
        status: HTTP status.
        title: What is wrong.
        text: Where, and what to do.
    """

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text


class SignInRequired(Exception):
    """There is no session; `ended` says that there was one."""

    def __init__(self, *, ended: bool = False) -> None:
        super().__init__("sign in")
        self.ended = ended


def problem_of(error: OAuthError, issuer: str) -> Problem:
    """Return the problem that an error of a request to the issuer is."""
    detail = getattr(error, "detail", "")
    why = f"{error}: {detail}" if detail else str(error)
    match error:
        case IssuerUnavailable():
            return Problem(
                503,
                "The issuer does not respond",
                f"{issuer}: {why}. Check that it is running, then try again.",
            )
        case LoginCancelled():
            return Problem(403, "You did not sign in", "You declined at the issuer. Sign in again to go on.")
    return Problem(
        502, "The issuer refused", f"{issuer}: {why}. Check the client and its scopes there, then try again."
    )
