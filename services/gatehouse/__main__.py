"""`gatehouse`, and `python -m gatehouse`."""

from __future__ import annotations

import os


def run() -> None:
    """Run the command line of this process."""
    # gRPC reads it when it is imported. Its messages on standard error do not have the format of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gatehouse.cli import main  # noqa: PLC0415 - after the line above

    main()


if __name__ == "__main__":
    run()
