"""Ids that sort by time: UUIDv7 (RFC 9562 section 5.7), created by the service, not by the database."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable


def new_id(clock: Callable[[], float]) -> uuid.UUID:
    """Return a new UUIDv7.

    Args:
        clock: Seconds since the epoch.
    """
    milliseconds = int(clock() * 1000) & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10))
    low = random & (1 << 62) - 1
    high = (random >> 62) & 0xFFF
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
