"""The result of a check, and how a check is run: bounded in time, and without secrets in its text."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gatehouse.domain import DomainError
from gatehouse.oauth import OAuthError

CHECK_SECONDS = 5.0


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found.

    Attributes:
        check: What was checked, such as `users: database`.
        status: How it ended.
        detail: One line: what was found, or what is wrong and how to fix it.
    """

    check: str
    status: Status
    detail: str


class Problem(Exception):
    """A check found a problem.

    Args:
        detail: One line that says what is wrong and how to fix it.
        status: How serious it is.
    """

    def __init__(self, detail: str, status: Status = Status.FAILED) -> None:
        super().__init__(detail)
        self.status = status


async def attempt(check: str, work: Coroutine[Any, Any, str], seconds: float = CHECK_SECONDS) -> Result:
    """Run one check.

    Args:
        check: What is checked.
        work: Returns what it found; raises Problem, or an error of Gatehouse, if something is wrong.
        seconds: Longest duration.
    """
    try:
        async with asyncio.timeout(seconds):
            return Result(check, Status.OK, await work)
    except TimeoutError:
        return Result(check, Status.FAILED, f"no answer within {seconds:g} s")
    except Problem as problem:
        return Result(check, problem.status, str(problem))
    except Exception as error:  # noqa: BLE001 - one check must not end the others
        return Result(check, Status.FAILED, error_text(error))


def error_text(error: Exception) -> str:
    """Return the message of an error that is written for users; only the type of any other error.

    The message of a foreign error may contain a secret.
    """
    if isinstance(error, DomainError | OAuthError) or isinstance(getattr(error, "exit_code", None), int):
        return " ".join(str(error).split())
    return f"unexpected error: {type(error).__name__}"
