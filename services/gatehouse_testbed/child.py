"""Run `gatehouse` as a child that ends with its parent: `python -m gatehouse_testbed.child ARGUMENTS`.

Standard input is a pipe that the parent keeps open. It ends when the parent ends, however that happens.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Thread

# Services end their calls first. See STOP_SECONDS in processes.py.
_STOP_SECONDS = 8.0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Thread(target=_end_with_parent, daemon=True).start()
    from gatehouse.__main__ import run

    run()
