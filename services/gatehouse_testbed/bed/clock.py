"""The clock of the test bed: it runs, and a test moves it forward."""

from __future__ import annotations

import time

# Longer than any pause of the services, such as that of a circuit breaker.
_PAUSE_SECONDS = 600.0


class MovableClock:
    """Wall clock and monotonic clock of issuer and services.

    Attributes:
        issuer_skew_seconds: How far the wall clock of the issuer is ahead of that of the services.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._monotonic_ahead = 0.0
        self.issuer_skew_seconds = 0.0

    @property
    def ahead_seconds(self) -> float:
        """How far the wall clock is ahead of the real one."""
        return self._ahead

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._ahead

    def issuer_time(self) -> float:
        """Return seconds since the epoch on the clock of the issuer, which may be wrong."""
        return self.time() + self.issuer_skew_seconds

    def monotonic(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic() + self._monotonic_ahead

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._ahead += seconds
        self._monotonic_ahead += seconds

    def skew_issuer(self, seconds: float) -> None:
        """Make the wall clock of the issuer wrong."""
        self.issuer_skew_seconds = seconds

    def reset(self) -> None:
        """Set the wall clock to the real time, and end all pauses and caches on the monotonic one."""
        self._ahead = self.issuer_skew_seconds = 0.0
        self._monotonic_ahead += _PAUSE_SECONDS
