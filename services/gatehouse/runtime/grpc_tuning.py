"""Tuning of gRPC's threads, for servers (GATEHOUSE_SERVER__GRPC_TUNING); see docs/operations.md.

This module does not import grpc, as `select_listener` must run before that.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import MutableMapping
from importlib import metadata
from typing import Literal

MEASURED_GRPCIO = "1.83.2"
# An internal flag of gRPC's C core: it selects the older listener, which passes a call through fewer threads.
EXPERIMENTS = "-event_engine_listener"
# grpc.aio waits for events in a thread with this target function; Python puts it into the thread's name.
_POLLING_FUNCTION = "_poll_wrapper"


def is_active(setting: Literal["auto", "off"]) -> bool:
    """Return whether to tune: `auto` does so only with the grpcio version that was measured."""
    return setting == "auto" and metadata.version("grpcio") == MEASURED_GRPCIO


def select_listener(environment: MutableMapping[str, str]) -> None:
    """Select gRPC's older listener, unless GRPC_EXPERIMENTS is set already.

    Args:
        environment: Environment of a process that has not imported grpc yet.
    """
    environment.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)


def lower_polling_thread_priority() -> bool:
    """Stop gRPC's polling thread from preempting the event loop when both share a core.

    The thread gets the policy SCHED_BATCH of Linux (sched(7)), which needs no privilege. It only notes events
    for the event loop, which cannot handle them before it has finished what it is doing. Call this after a
    server has started.

    Returns:
        Whether the policy was set. It is not on other systems, if the system forbids it, or if the thread has
        another policy already.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return False
    changed = False
    for thread in threading.enumerate():
        if _POLLING_FUNCTION in thread.name and thread.native_id is not None:
            with contextlib.suppress(OSError):
                if os.sched_getscheduler(thread.native_id) == os.SCHED_OTHER:
                    os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
                    changed = True
    return changed
