"""Output of the commands: color on a terminal, plain text elsewhere, and pictures as SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from gatehouse.settings import wants_color
from gatehouse_testbed.errors import TestbedError

WIDTH = 110

# The style sheet of rich downloads a font.
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def make_console(stream: TextIO | None = None, *, record: bool = False) -> Console:
    """Return the console of a command.

    Args:
        stream: Where it writes; standard output if None.
        record: Whether `save_svg` can save its output.
    """
    console = Console(file=stream, record=record, highlight=False)
    if not wants_color(terminal=console.is_terminal):
        # A recording keeps its colors.
        console = Console(file=stream, record=record, highlight=False, color_system=None)
    if record or not console.is_terminal:
        console.width = WIDTH
    return console


def save_svg(console: Console, file: Path, title: str) -> None:
    """Save the output of a recording console as a picture.

    Raises:
        TestbedError: The file cannot be written.
    """
    text = console.export_svg(title=title, unique_id="gatehouse", clear=False)
    try:
        file.write_text(_FONT_FACE.sub("", text), encoding="utf-8")
    except OSError as error:
        raise TestbedError(f"{file}: cannot be written ({error.strerror}); name another file") from None


def save_picture(content: RenderableType, file: Path, title: str) -> None:
    """Save one table or tree as a picture; see save_svg."""
    console = make_console(StringIO(), record=True)
    console.print(content)
    save_svg(console, file, title)


def print_commands(console: Console, lines: Sequence[str]) -> None:
    """Print commands that can be pasted into a shell: never wrapped, with a comment after `  # `."""
    for line in lines:
        command, _, comment = line.partition("  # ")
        text = Text("  ").append(command, "bold")
        if comment:
            text.append(f"  # {comment}", "dim")
        console.print(text, soft_wrap=True)
