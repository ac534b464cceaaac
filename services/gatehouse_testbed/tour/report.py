"""What a tour says: steps, checks that came out well or not, and a summary at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class Report:
    """Shows a tour on a console, and keeps what came out otherwise than promised.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._good, self._bad = ("✓", "✗") if console.encoding.lower().startswith("utf") else ("ok", "!!")
        self._steps = 0
        self._checks = 0
        self.faults: list[str] = []

    def step(self, title: str) -> None:
        """Begins a step."""
        self._steps += 1
        self._console.print()
        self._console.rule(f"[bold]{self._steps}  {title}", align="left", style="dim")

    def check(self, text: str, *, good: bool) -> None:
        """Says what happened, and whether it should have."""
        self._checks += 1
        if not good:
            self.faults.append(text)
        mark, style = (self._good, "green") if good else (self._bad, "bold red")
        self._line(Text(mark, style), Text(text, "" if good else style))

    def note(self, text: str) -> None:
        """Says what needs no check."""
        self._line(Text(" " * len(self._good)), Text(text, "dim"))

    def _line(self, mark: Text, text: Text) -> None:
        """Prints a line; one that is too long goes on below its own beginning."""
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(" "), mark, text)
        self._console.print(line)

    def show(self, drawn: RenderableType) -> None:
        """Shows a table or a tree, and a blank line after it."""
        self._console.print(drawn)
        self._console.print()

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows how far something is, on a terminal; yields what is told of each number that is done."""
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # Where there is no terminal, a line that changes would be many lines.
        visible = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not visible) as shown:
            task = shown.add_task(text, total=total)
            yield lambda number: shown.advance(task, number)

    def summary(self, seconds: float) -> None:
        """Says what came out, and in how many seconds."""
        self._console.print()
        self._console.rule(style="dim")
        if not self.faults:
            text = f"  {self._good} All {self._checks} checks came out as promised, in {seconds:.1f} s."
            self._console.print(Text(text, "bold green"))
            return
        text = f"  {self._bad} {len(self.faults)} of {self._checks} checks came out otherwise than promised:"
        self._console.print(Text(text, "bold red"))
        for fault in self.faults:
            self._console.print(Text(f"    {fault}"))
