"""Values that several settings have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

VerifyMode = Literal["jwt", "introspection", "hybrid"]


def as_tuple(value: Any) -> Any:
    """Return a string as a tuple of one; refuse what is neither a string nor a list."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError("must be a string or a list of strings")  # noqa: TRY004 - pydantic reports ValueError
    return value


def _check_file(value: Any) -> Any:
    if value == "":  # which would be the current directory
        raise ValueError("must be the path of a file; it is empty")
    return value


FilePath = Annotated[Path, BeforeValidator(_check_file)]

_ROLE_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def _check_role_prefix(value: str) -> str:
    if _ROLE_PREFIX.fullmatch(value) is None:
        raise ValueError("must have at most 40 characters of a-z, 0-9 and _, and not begin with a digit")
    return value


RolePrefix = Annotated[str, AfterValidator(_check_role_prefix)]

# gRPC and PostgreSQL have 32 bits for a size, and for a time in milliseconds.
MAX_BYTES = 1_000_000_000
MAX_SECONDS = 2_000_000
Seconds = Annotated[float, Field(ge=0.01, le=MAX_SECONDS)]
