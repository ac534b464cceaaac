"""Notifications for metrics, independent of any metrics library."""

from __future__ import annotations

from typing import Literal, Protocol

Source = Literal["cache", "signature", "introspection"]


class Observer(Protocol):
    """Is notified of each verification and each key refresh."""

    def verified(self, source: Source) -> None:
        """A token was verified by `source`."""
        ...

    def keys_refreshed(self, *, ok: bool) -> None:
        """An attempt to fetch keys has succeeded or failed."""
        ...


class NoObserver:
    """An observer that ignores everything."""

    def verified(self, source: Source) -> None:
        """Do nothing."""

    def keys_refreshed(self, *, ok: bool) -> None:
        """Do nothing."""
