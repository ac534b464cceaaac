"""The base class of all groups of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings. Unknown names are errors; the docstring of a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of settings and their new names, both without `GATEHOUSE_` and in lower case; a former
    section maps to a new section. Only the sections of `Settings` have them, not sections within sections."""
