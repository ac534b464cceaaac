"""The migrations of a service, and where the scripts are. Without alembic, which only `migrations` needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class MigrationError(Exception):
    """The migration failed; the message is one line that says why and how to fix it."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class MigrationBranch:
    """The migrations of one service.

    Attributes:
        name: Name of the service and of its folder below `migrations/`.
        schema: Schema of its tables and of its version table.
        login_role: Role with which the service logs in.
    """

    name: str
    schema: str
    login_role: str


def migrations_folder() -> Path:
    """Return the folder of the scripts: beside `services/` in a checkout, beside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "migrations", package.parent / "gatehouse_migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError(f"the migrations are missing beside {package}; reinstall Gatehouse")
