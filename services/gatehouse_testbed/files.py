"""The realm file, the demo users, and the files that a stack writes for its user."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError

_PACKAGE = Path(__file__).resolve().parent


def realm_file() -> Path:
    """Return the path of the realm file."""
    return _find("keycloak/gatehouse-realm.json")


def users_file() -> Path:
    """Return the path of the CSV file with the demo users."""
    return _find("examples/users.csv")


def _find(name: str) -> Path:
    checkout = _PACKAGE.parents[1]
    for path in (_PACKAGE / "data" / Path(name).name, checkout / name):
        if path.is_file():
            return path
    raise TestbedError(f"{name}: not found in {_PACKAGE} or {checkout}; reinstall gatehouse")


@dataclass(frozen=True, slots=True)
class UserRow:
    """A row of the file of users; `number` starts at 1 and does not count the header."""

    number: int
    email: str
    display_name: str


def read_users(path: Path) -> Sequence[UserRow]:
    """Read a CSV file with the columns `email` and `display_name`.

    Raises:
        TestbedError: The file cannot be read, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                UserRow(number, row["email"], row["display_name"])
                for number, row in enumerate(csv.DictReader(stream), 1)
            ]
    except OSError as error:
        raise TestbedError(f"{path}: cannot be read ({error.strerror}); name a CSV file") from None
    except (KeyError, ValueError) as error:
        raise TestbedError(f"{path}: not a CSV file with email and display_name ({error})") from None


def write_profile(profile: Profile, file: Path) -> None:
    """Write a profile with its secrets in clear text, readable by the owner only."""
    plain = profile.model_dump(mode="json", exclude_none=True)
    plain["clients"] = {name: secret.get_secret_value() for name, secret in profile.clients.items()}
    plain["passwords"] = {name: secret.get_secret_value() for name, secret in profile.passwords.items()}
    if profile.issuer_admin_password is not None:
        plain["issuer_admin_password"] = profile.issuer_admin_password.get_secret_value()
    file.touch(mode=0o600)
    file.write_text(json.dumps(plain, indent=2), encoding="utf-8")


def write_settings(settings: Mapping[str, str], file: Path) -> None:
    """Write settings with their secrets as shell commands that set them, readable by the owner only."""
    file.touch(mode=0o600)
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    file.write_text("".join(lines), encoding="utf-8")
