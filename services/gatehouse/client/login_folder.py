"""Where the logins of the command line are, and the name of the one to use. It imports little."""

from __future__ import annotations

import re
from pathlib import Path

from gatehouse.settings import ConfigurationError, environment

DEFAULT_LOGIN = "default"
LOGIN_FILE = "login.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def logins_folder() -> Path:
    """Return the folder of the logins: `gatehouse/logins` in the state folder of the user (XDG).

    Raises:
        ConfigurationError: The user has no home folder.
    """
    state = environment().get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        raise ConfigurationError("no home folder for the logins; set XDG_STATE_HOME") from None
    return base / "gatehouse" / "logins"


def chosen_login(given: str | None) -> str | None:
    """Return the login that the user has chosen: the given one, or that of `GATEHOUSE_LOGIN`; None if none.

    Raises:
        ConfigurationError: It is not a name.
    """
    name = given or environment().get("GATEHOUSE_LOGIN") or None
    if name is not None and _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name}: not a name of a login; use up to 64 letters, digits, dots, hyphens and underscores"
        )
    return name


def has_login(name: str) -> bool:
    """Return whether there is a login of this name; False if there can be none."""
    try:
        return (logins_folder() / name / LOGIN_FILE).exists()
    except (ConfigurationError, OSError):  # in a container, or as another user
        return False
