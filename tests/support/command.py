"""A process that ends with the `with` block of a test, also if the test fails in it."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import AnyStr


class Command(subprocess.Popen[AnyStr]):
    """A process that is killed at the end of its `with` block, where Popen would wait for its end."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()  # nothing happens if it has ended
        super().__exit__(kind, error, traceback)
