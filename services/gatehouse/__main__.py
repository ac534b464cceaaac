"""`gatehouse`, and `python -m gatehouse`."""

from __future__ import annotations

import os


def run() -> None:
    """Runs the command line of this process."""
    # What gRPC's core writes to standard error is in no format of ours. Read when gRPC is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gatehouse.cli import main  # noqa: PLC0415 - after the line above

    main()


if __name__ == "__main__":
    run()
