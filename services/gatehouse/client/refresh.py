"""The refresh of a login (RFC 6749 section 6), with refresh tokens that rotate (RFC 9700 section 4.14)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gatehouse.client.login_errors import LoginRequired
from gatehouse.client.login_store import (
    LAST_REMAINING_SECONDS,
    MIN_REMAINING_SECONDS,
    Login,
    LoginStore,
)
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed


class Refresh:
    """A Grant that refreshes the login in a store.

    An issuer that rotates refresh tokens ends the login when one is used twice. So all processes that share a
    store refresh one after the other, and use the access token that another of them got. A request whose
    response is lost is sent again with the same refresh token: if the issuer has used it, the login is lost
    either way.

    Args:
        client: The client that the login was for.
        store: Keeps the login.
        scope: Scopes to request, separated by spaces, to narrow those of the login.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        client: OAuthClient,
        store: LoginStore,
        scope: str = "",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._scope = scope
        self._clock = clock
        self._returned = ""
        self._unsaved: tuple[Login, Login] | None = None

    async def remember(self, response: TokenResponse) -> None:
        """Store the tokens of a user who has logged in.

        Raises:
            TokenRequestFailed: The response has no refresh token.
            TokenStoreError: They cannot be stored.
        """
        if response.refresh_token is None:
            raise TokenRequestFailed("no_refresh_token", detail="the token response contains none")
        async with self._store.locked():
            self._store.save(Login.of(response, self._clock()))

    async def request(self) -> TokenResponse:
        """See Grant.

        Raises:
            LoginRequired: There is no login, or the issuer has ended it.
            TokenStoreError: The store cannot be used.
        """
        task = asyncio.create_task(self._locked_request())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The response may contain the only valid refresh token; a request ends within seconds.
            await asyncio.wait((task,))
            raise

    async def _locked_request(self) -> TokenResponse:
        async with self._store.locked():
            login = self._load()
            response = self._stored(login, MIN_REMAINING_SECONDS)
            if response is None:
                try:
                    response = await self._refresh(login)
                except IssuerUnavailable:
                    response = self._stored(login, LAST_REMAINING_SECONDS)
                    if response is None:
                        raise
            self._returned = response.access_token
            return response

    def _load(self) -> Login:
        login = self._store.load()
        if self._unsaved is not None and login == self._unsaved[0]:
            login = self._unsaved[1]
            self._store.save(login)
        self._unsaved = None
        if login is None:
            raise LoginRequired
        return login

    def _stored(self, login: Login, at_least: float) -> TokenResponse | None:
        """Return the access token in the store, unless it ends soon or is the one to be replaced."""
        if self._scope or login.access_token == self._returned:
            return None
        return login.response(self._clock(), at_least)

    async def _refresh(self, login: Login) -> TokenResponse:
        if not login.refresh_token:
            self._store.save(None)
            raise LoginRequired("expired")
        form = {
            "grant_type": "refresh_token",
            "refresh_token": login.refresh_token,
            "scope": self._scope,
        }
        try:
            response = await self._client.request_token(form)
        except TokenRequestFailed as error:
            if error.error != "invalid_grant":
                raise
            self._store.save(None)
            raise LoginRequired(error.error) from None
        following = login.renewed(response, self._clock())
        self._unsaved = (login, following)
        self._store.save(following)
        self._unsaved = None
        return response
