"""Files that the demo carries: beside `services/` in a checkout, beside the package in a wheel."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatehouse_testbed.errors import DemoError


def realm_file() -> Path:
    """Returns the realm file of the repository."""
    return _find("keycloak/gatehouse-realm.json")


def users_file() -> Path:
    """Returns the file of a thousand users."""
    return _find("examples/users.csv")


def _find(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    for path in (package.parents[1] / name, package.parent / "gatehouse_testbed_data" / Path(name).name):
        if path.is_file():
            return path
    raise DemoError(f"{name}: is missing beside {package}; install Gatehouse anew")


@dataclass(frozen=True, slots=True)
class UserRow:
    """A row of the file of users; `number` counts from 1, the head not counted."""

    number: int
    email: str
    display_name: str


def read_users(path: Path) -> Sequence[UserRow]:
    """Reads a CSV file with the columns `email` and `display_name`.

    Raises:
        DemoError: It cannot be read, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                UserRow(number, row["email"], row["display_name"])
                for number, row in enumerate(csv.DictReader(stream), 1)
            ]
    except OSError as error:
        raise DemoError(f"{path}: cannot be read ({error.strerror}); name a CSV file") from None
    except (KeyError, ValueError) as error:
        raise DemoError(f"{path}: is no CSV file with email and display_name ({error})") from None
