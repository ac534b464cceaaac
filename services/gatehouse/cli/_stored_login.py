"""Which stored login a command uses if the user names nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatehouse.cli._errors import print_error
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login, has_login, logins_folder
from gatehouse.client.profile import Profile, profile_file
from gatehouse.client.token_source import TokenSource
from gatehouse.oauth import OAuthError


def login_for_call(profile: Profile, given: str | None, *, public: bool) -> str | None:
    """Return the name of the login whose token a call sends, None to send none.

    A token is for the services of one issuer, and must not be sent to others. So a login that the user has
    not named is used only if it is of the issuer of the profile, or if no profile is named.

    Args:
        profile: The profile.
        given: Name that the user has given.
        public: Whether the RPC needs no token.
    """
    chosen = chosen_login(given)
    if chosen is not None:
        return chosen
    if public or not has_login(DEFAULT_LOGIN):
        return None
    from gatehouse.client.stored_logins import StoredLogins  # noqa: PLC0415 - only commands with a login need it

    issuer = StoredLogins(logins_folder()).require(DEFAULT_LOGIN).registration.issuer
    if issuer != profile.issuer and profile_file() is not None:
        print_error(
            f"warning: no token is sent, because the stored login is of {issuer}, and the profile of "
            f"{profile.issuer}; name another with --login, or run `gatehouse login`"
        )
        return None
    return DEFAULT_LOGIN


class StoredTokens:
    """The TokenSource of a stored login. It has the last error, which a channel turns into a status."""

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens
        self._last = ""
        self.error: OAuthError | None = None

    async def token(self) -> str:
        """See TokenSource."""
        try:
            self._last = await self._tokens.token()
        except OAuthError as error:
            self.error = error
            raise
        return self._last

    async def replace(self) -> None:
        """Replace the stored token, which a service has rejected, for the next command."""
        self._tokens.invalidate(self._last)
        await self.token()

    def invalidate(self, token: str) -> None:
        """See TokenSource."""
        self._tokens.invalidate(token)


@asynccontextmanager
async def stored_tokens(profile: Profile, name: str) -> AsyncIterator[StoredTokens]:
    """Open the token source of a stored login, with a valid token.

    Raises:
        CommandError: There is no valid token, or none in place of one that a service has rejected.
    """
    from gatehouse.cli._issuer_errors import issuer_errors  # noqa: PLC0415 - see above
    from gatehouse.client.sessions import open_login  # noqa: PLC0415
    from gatehouse.client.stored_logins import StoredLogins  # noqa: PLC0415

    with issuer_errors(name):
        async with open_login(StoredLogins(logins_folder()), name, proxy=profile.proxy_url) as (tokens, _):
            watched = StoredTokens(tokens)
            await watched.token()
            yield watched
            if watched.error is not None:
                raise watched.error
