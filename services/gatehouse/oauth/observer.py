"""What this room tells about its work, for metrics; it knows no metrics library."""

from __future__ import annotations

from typing import Literal, Protocol

Source = Literal["cache", "signature", "introspection"]


class Observer(Protocol):
    """Told of each verification and each key refresh."""

    def verified(self, source: Source) -> None:
        """A token was verified, by what `source` says."""
        ...

    def keys_refreshed(self, *, ok: bool) -> None:
        """An attempt to fetch keys has ended."""
        ...


class NoObserver:
    """An observer that listens to nothing."""

    def verified(self, source: Source) -> None:
        """Does nothing."""

    def keys_refreshed(self, *, ok: bool) -> None:
        """Does nothing."""
