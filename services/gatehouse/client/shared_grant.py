"""A grant whose token is shared by processes, such as the commands of a user."""

from __future__ import annotations

import time
from collections.abc import Callable

from gatehouse.client.login_errors import LoginRequired
from gatehouse.client.login_store import LAST_REMAINING_SECONDS, LoginStore
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.client.token_manager import Grant
from gatehouse.oauth import IssuerUnavailable


class SharedGrant:
    """A Grant that stores the token of another grant. Use Refresh for logins of users.

    Args:
        grant: Requests a token, such as ClientCredentials.
        store: Keeps it.
        clock: Seconds since the epoch.
    """

    def __init__(self, grant: Grant, store: LoginStore, *, clock: Callable[[], float] = time.time) -> None:
        self._grant = grant
        self._store = store
        self._clock = clock
        self._returned = ""

    async def request(self) -> TokenResponse:
        """See Grant.

        Raises:
            LoginRequired: There is no login.
            TokenStoreError: The store cannot be used.
        """
        async with self._store.locked():
            login = self._store.load()
            if login is None:
                raise LoginRequired
            # A token that is asked for again has been rejected, or ends soon.
            usable = login.access_token != self._returned
            response = login.response(self._clock()) if usable else None
            if response is None:
                try:
                    response = await self._grant.request()
                except IssuerUnavailable:
                    response = login.response(self._clock(), LAST_REMAINING_SECONDS) if usable else None
                    if response is None:
                        raise
                else:
                    self._store.save(login.renewed(response, self._clock()))
            self._returned = response.access_token
            return response
