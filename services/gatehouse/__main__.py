"""`gatehouse`, and `python -m gatehouse`."""

from __future__ import annotations

import gc
import os
import sys

# Variables for other programs: `ssl` would write the keys of TLS sessions to the file, so that others can
# decrypt tokens; typer fails if its width is not a number.
_IGNORED = ("SSLKEYLOGFILE", "TERMINAL_WIDTH")


def _open_standard_streams() -> None:
    """Open the standard streams that the caller has closed.

    Otherwise, a socket or a file gets the number of a closed one: uvloop aborts when it closes descriptor 0.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - until the process ends
            setattr(sys, name, stream)


def run() -> None:
    """Run the command line of this process."""
    _open_standard_streams()
    for name in _IGNORED:
        os.environ.pop(name, None)
    # gRPC reads it when it is imported. Its messages on standard error do not have the format of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Gatehouse uses no plugins of pydantic; looking for them takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    if sys.argv[1:2] == ["healthcheck"]:
        from gatehouse import probe  # noqa: PLC0415 - no other command needs it

        if probe.run(sys.argv[2:]):
            sys.stdout.flush()
            os._exit(0)  # 20 of 100 ms are for taking apart what the end of the process removes anyway
    try:
        from gatehouse.cli import main  # noqa: PLC0415 - after the lines above
    except KeyboardInterrupt:
        sys.exit(130)  # as `main` does; the imports take a while
    gc.freeze()
    gc.enable()
    try:
        main()
    finally:
        gc.freeze()  # at its end, the interpreter would look for garbage in all modules: a quarter of a start


if __name__ == "__main__":
    run()
