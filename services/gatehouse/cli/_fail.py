"""Every way in which a command can end, and the one line that says why."""

from __future__ import annotations

import sys

from gatehouse.issuer import IssuerError, RealmError
from gatehouse.oauth import IssuerUnavailable, OAuthError
from gatehouse.rpc import PolicyError, TlsError
from gatehouse.settings import ConfigurationError
from gatehouse.storage import MigrationError

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3

EXIT_CODES = """Exit codes: 0 it worked; 1 it was refused, or came out otherwise than it should; 2 the
command or the configuration is wrong; 3 something that is needed cannot be reached."""

_WRONG = (ConfigurationError, PolicyError, TlsError, RealmError)
_AWAY = (MigrationError, IssuerError, IssuerUnavailable, OSError)


def explain(error: Exception) -> tuple[str, int] | None:
    """Returns the line and the exit code of an error that is no fault of the program, else None."""
    if isinstance(error, _WRONG):
        return str(error), USAGE
    if isinstance(error, IssuerUnavailable):
        return f"the issuer gave no usable answer ({error}); check that it runs and its address", UNREACHABLE
    if isinstance(error, _AWAY):
        return str(error), UNREACHABLE
    if isinstance(error, OAuthError):
        return f"the issuer refused ({error}); check the user, the client and the scopes", REFUSED
    return None


def say(text: str) -> None:
    """Writes one line to standard error."""
    sys.stderr.write(f"gatehouse: {' '.join(text.split())}\n")
