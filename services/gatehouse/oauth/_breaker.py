"""A circuit breaker for one issuer: while it cannot be reached, calls fail at once instead of waiting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

WINDOW_SECONDS = 1.5
MIN_TOKENS = 5
FAILURE_RATE = 0.9


class Breaker:
    """Decides whether an issuer can be reached, by its failure rate over a short window.

    The rate counts tokens, not requests: each token counts once, with its latest outcome. One token that the
    issuer cannot handle counts no more than one that it can, however often it is sent. The breaker opens when
    the issuer was not reached for at least `MIN_TOKENS` tokens within `WINDOW_SECONDS`, and these are at
    least `FAILURE_RATE` of all tokens that it was asked about. In an outage every token fails, so the rate
    passes the threshold once the last good outcomes have left the window.

    "Not reached" means no HTTP response: connection refused, DNS or TLS failure, connection closed, timeout.
    It also means 429, 502, 503 and 504, with which an issuer, or a proxy in front of it, refuses requests for
    the time being. A 503 for all tokens is an outage and opens the breaker, like refused connections; a 503
    for one token counts as one token. An issuer that limits our rate still answers some requests, which
    keeps the breaker closed. Every other response shows that the issuer is reachable, even if it is
    malformed, too large, or a 500, which is often caused by one particular input.

    The breaker closes when the issuer responds, not after a certain time. No call is used as a probe: while
    the breaker is open, IntrospectionVerifier asks about random tokens. A response to a request that was
    already in progress closes the breaker too.

    Args:
        monotonic: Clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Time and whether the issuer was reached, by token; oldest first.
        self._outcomes: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        self._open = False

    def is_open(self) -> bool:
        """Return whether calls must fail without asking the issuer."""
        return self._open

    def record(self, key: bytes, *, reached: bool) -> None:
        """Record whether the issuer was reached when it was asked about the token `key`."""
        if self._open:
            if reached:
                self.close()
            return
        now = self._monotonic()
        self._outcomes[key] = (now, reached)
        self._outcomes.move_to_end(key)
        while next(iter(self._outcomes.values()))[0] <= now - WINDOW_SECONDS:
            self._outcomes.popitem(last=False)
        if not reached:
            failed = sum(not reached for _, reached in self._outcomes.values())
            self._open = failed >= max(MIN_TOKENS, FAILURE_RATE * len(self._outcomes))

    def close(self) -> None:
        """Let calls through again; earlier outcomes no longer count."""
        self._open = False
        self._outcomes.clear()
