"""How gRPC's core shares a processor with the event loop. Imports no grpc: one half is for before that."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import MutableMapping
from importlib import metadata

# The older of its two listeners hands a call through fewer threads; `make bench` shows what that spares. The
# name is internal to gRPC, so it is used with the version that was measured and with no other.
MEASURED_WITH = "1.83.2"
EXPERIMENTS = "-event_engine_listener"
_POLLER = "_poll_wrapper"  # its target, after which Python names a thread


def tune_grpc(environment: MutableMapping[str, str]) -> None:
    """Sets GRPC_EXPERIMENTS for servers, unless it is set: whoever runs a server has the last word.

    Args:
        environment: Of this process, or of one that is to be started.
    """
    if metadata.version("grpcio") == MEASURED_WITH:
        environment.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)


def calm_poller() -> bool:
    """Has the thread in which grpc.aio waits for the network not interrupt the thread of the event loop.

    Where both share a processor, the kernel would let it break in at each packet, to note an event which the
    loop cannot take before it is done anyway. Under SCHED_BATCH (Linux, sched(7)) it runs when the loop
    waits, or has had its share of time; on a processor that is free it runs at once, as ever. `make bench`
    shows what that spares. To be called once a server has started; it needs no privilege.

    Returns:
        Whether it was done: not where there is no such policy, it is forbidden, or another was chosen.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return False
    done = False
    for thread in threading.enumerate():
        if _POLLER in thread.name and thread.native_id is not None:
            with contextlib.suppress(OSError):
                if os.sched_getscheduler(thread.native_id) != os.SCHED_OTHER:
                    continue  # whoever runs the server has chosen
                os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
                done = True
    return done
