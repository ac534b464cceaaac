"""Values that several settings have."""

from __future__ import annotations

from typing import Any, Literal

VerifyMode = Literal["jwt", "introspection", "hybrid"]


def as_tuple(value: Any) -> Any:
    """Return a string as a tuple of one; refuse what is neither a string nor a list."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError("must be a string or a list of strings")  # noqa: TRY004 - pydantic reports ValueError
    return value
