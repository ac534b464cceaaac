"""The name of this program in the user's shell, for commands that are printed to be pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

_NAME = "gatehouse"


def program_name() -> str:
    """Return the command that runs this program: `gatehouse`, or its path if it is not on the PATH."""
    program = Path(sys.argv[0])
    if program.name != _NAME:  # such as `python -m gatehouse`
        program = Path(sys.executable).with_name(_NAME)
    if not program.exists():
        return f"{shlex.quote(sys.executable)} -m {_NAME}"
    # A relative path is how the user typed it. `make` has another PATH than the shell that runs it.
    if program.is_absolute():
        found = shutil.which(_NAME)
        if found is not None and Path(found).samefile(program):
            return _NAME
        with suppress(FileNotFoundError, ValueError):  # the folder was removed, or the program is elsewhere
            program = program.relative_to(Path.cwd())
    path = str(program)
    return shlex.quote(path if "/" in path else f"./{path}")


def name_program(text: str) -> str:
    """Replace commands in backticks by the ones that the user can run."""
    return text.replace("`gatehouse ", f"`{program_name()} ")
