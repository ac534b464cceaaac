"""Notifications for metrics, independent of any metrics library."""

from __future__ import annotations

from typing import Literal, Protocol

from gatehouse.oauth.errors import OAuthError

Source = Literal["cache", "signature", "introspection"]
Use = Literal["keys", "introspection", "token"]


class Observer(Protocol):
    """Is notified of each verification and of each request to an issuer."""

    def verified(self, source: Source) -> None:
        """A token was verified by `source`."""
        ...

    def issuer_asked(self, issuer: str, use: Use, error: OAuthError | None) -> None:
        """An issuer was asked for its keys, about a token, or for a token; `error` says why in vain."""
        ...


class NoObserver:
    """An observer that ignores everything."""

    def verified(self, source: Source) -> None:
        """Do nothing."""

    def issuer_asked(self, issuer: str, use: Use, error: OAuthError | None) -> None:
        """Do nothing."""
