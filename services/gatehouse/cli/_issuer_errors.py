"""Errors of issuers and of stored logins as errors of commands: they say which of the two failed, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gatehouse.cli._errors import CommandError, ExitCode
from gatehouse.client import LoginCancelled, LoginRequired, TokenStoreError
from gatehouse.client.login_folder import DEFAULT_LOGIN
from gatehouse.oauth import IssuerUnavailable, OAuthError

# Errors that the response of an issuer had in our judgement, so that their detail says more.
_OURS = frozenset({"malformed_response", "id_token_invalid", "issuer_mismatch"})


@contextmanager
def issuer_errors(login: str = DEFAULT_LOGIN) -> Iterator[None]:
    """Turn the errors of requests to an issuer into errors of a command.

    Args:
        login: Name of the stored login that is used.

    Raises:
        CommandError: The issuer refuses or is unavailable, the user has cancelled, or the login has ended.
    """
    try:
        yield
    except OAuthError as error:
        failure = _explain(error, login)
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        raise failure from None


def _explain(error: OAuthError, login: str) -> CommandError:
    match error:
        case IssuerUnavailable():
            return _unavailable(error)
        case LoginCancelled():
            return CommandError(str(error), ExitCode.REFUSED)
        case LoginRequired():
            name = "" if login == DEFAULT_LOGIN else f" {login}"
            return CommandError(f"{error} with `gatehouse login{name}`", ExitCode.REFUSED)
        case TokenStoreError():
            return CommandError(str(error), ExitCode.UNREACHABLE)
    detail = getattr(error, "detail", "")
    why = f"{error}: {detail}" if detail and str(error) in _OURS else str(error)
    return CommandError(
        f"the issuer refused ({why}); check the user, the client and the scopes", ExitCode.REFUSED
    )


def _unavailable(error: IssuerUnavailable) -> CommandError:
    if error.reason.endswith("_endpoint_missing"):
        what = error.reason.removesuffix("_endpoint_missing").replace("_", " ")
        return CommandError(
            f"the issuer has no {what} endpoint, so it does not offer this; choose another way",
            ExitCode.REFUSED,
        )
    why = f"{error}: {error.detail}" if error.detail else str(error)
    return CommandError(
        f"the issuer gave no usable answer ({why}); check that it is running, and its URL",
        ExitCode.UNREACHABLE,
    )
