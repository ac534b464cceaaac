"""`gatehouse`, and `python -m gatehouse`."""

from __future__ import annotations

import os


def run() -> None:
    """Runs the command line of this process."""
    # What gRPC's core writes to standard error is in no format of ours. Read when gRPC is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Gatehouse uses no plugins of pydantic; looking for them takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from gatehouse.cli import main  # noqa: PLC0415 - after the lines above

    main()


if __name__ == "__main__":
    run()
