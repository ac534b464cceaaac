"""Notifications for metrics, independent of any metrics library."""

from __future__ import annotations

from typing import Literal, Protocol

from gatehouse.oauth.errors import OAuthError

Source = Literal["cache", "signature", "introspection"]


class Observer(Protocol):
    """Is notified of each verification and of each request to an issuer."""

    def verified(self, source: Source) -> None:
        """A token was verified by `source`."""
        ...

    def issuer_asked(self, issuer: str, use: str, error: OAuthError | None) -> None:
        """A request to an issuer has ended.

        Args:
            issuer: The issuer.
            use: `keys`, `introspection`, or `token of CLIENT`.
            error: Why it failed, or None.
        """
        ...


class NoObserver:
    """An observer that ignores everything."""

    def verified(self, source: Source) -> None:
        """Do nothing."""

    def issuer_asked(self, issuer: str, use: str, error: OAuthError | None) -> None:
        """Do nothing."""
