"""Output of a tour: steps, checks that passed or failed, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class Report:
    """Prints a tour and keeps the checks that failed.

    Args:
        console: Where it is printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        is_utf = console.encoding.lower().startswith("utf")
        self._passed, self._failed = ("✓", "✗") if is_utf else ("ok", "!!")
        self._steps = 0
        self._checks = 0
        self.failures: list[str] = []

    def step(self, title: str) -> None:
        """Begin a step."""
        self._steps += 1
        self._console.print()
        self._console.rule(f"[bold]{self._steps}  {title}", align="left", style="dim")

    def check(self, text: str, *, ok: bool) -> None:
        """Print the result of a check."""
        self._checks += 1
        if not ok:
            self.failures.append(text)
        mark, style = (self._passed, "green") if ok else (self._failed, "bold red")
        self._line(Text(mark, style), Text(text, "" if ok else style))

    def note(self, text: str) -> None:
        """Print a line that is not a check."""
        self._line(Text(" " * len(self._passed)), Text(text, "dim"))

    def _line(self, mark: Text, text: Text) -> None:
        """Print a line; a long one is wrapped and indented."""
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(" "), mark, text)
        self._console.print(line)

    def show(self, content: RenderableType) -> None:
        """Print a table or a tree, and a blank line."""
        self._console.print(content)
        self._console.print()

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on a terminal; yield a function that takes the number of items just done."""
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(text, total=total)
            yield lambda number: progress.advance(task, number)

    def summary(self, seconds: float) -> None:
        """Print the number of checks, and those that failed again."""
        self._console.print()
        self._console.rule(style="dim")
        if not self.failures:
            text = f"  {self._passed} All {self._checks} checks passed in {seconds:.1f} s."
            self._console.print(Text(text, "bold green"))
            return
        text = f"  {self._failed} {len(self.failures)} of {self._checks} checks failed:"
        self._console.print(Text(text, "bold red"))
        for failure in self.failures:
            self._console.print(Text(f"    {failure}"))
