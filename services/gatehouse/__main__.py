"""`gatehouse`, and `python -m gatehouse`."""

from __future__ import annotations

import os


def run() -> None:
    """Run the command line of this process."""
    # gRPC reads it when it is imported. Its messages on standard error do not have the format of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Gatehouse uses no plugins of pydantic; looking for them takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from gatehouse.cli import main  # noqa: PLC0415 - after the lines above

    main()


if __name__ == "__main__":
    run()
