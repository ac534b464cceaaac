"""The command: `python -m tools.fork --name NAME [--dir FOLDER] [--without PARTS]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tools.fork.fork import ForkError, fork
from tools.parts import PARTS


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # as an exception, so that what is half done is removed


def main() -> int:
    """Write the new repository; return 2 if the arguments cannot be used."""
    parts = ", ".join(PARTS)
    parser = argparse.ArgumentParser(prog="make fork", description="Write a new repository from this one.")
    parser.add_argument("--name", default="", help="such as acme-billing")
    parser.add_argument("--dir", default="", help="the new folder; ../NAME if not given")
    parser.add_argument("--without", default="", help=f"what to leave out: names of services, {parts}")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    without = [name for name in arguments.without.replace(" ", ",").split(",") if name]
    try:
        folder = fork(arguments.name, Path(arguments.dir) if arguments.dir else None, without)
    except ForkError as error:
        print(f"fork: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"next: cd {os.path.relpath(folder)} && make demo test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
