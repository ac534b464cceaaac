"""Every way in which a command can end, and the one line that says why."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from gatehouse.settings import ConfigurationError

OK, REFUSED, USAGE, UNREACHABLE, FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """Exit codes: 0 it worked; 1 it was refused, or came out otherwise than it should; 2 the
command or the configuration is wrong; 3 something that is needed cannot be reached; 4 a fault of Gatehouse
itself, whose traceback GATEHOUSE_TRACEBACK=1 shows; 130 interrupted."""


def explain(error: Exception) -> tuple[str, int]:
    """Returns the line that says why a command failed, and its exit code."""
    # Here, because what works need not pay for these rooms.
    from gatehouse.oauth import IssuerUnavailable, OAuthError  # noqa: PLC0415
    from gatehouse.rpc import PolicyError, TlsError  # noqa: PLC0415
    from gatehouse.storage.migrations import MigrationError  # noqa: PLC0415

    usage = isinstance(error, ConfigurationError | PolicyError | TlsError)
    # Errors of optional packages name their exit code themselves.
    code = USAGE if usage else getattr(error, "exit_code", None)
    if isinstance(code, int):
        return str(error), code
    if isinstance(error, IssuerUnavailable):
        return f"the issuer gave no usable answer ({error}); check that it runs and its address", UNREACHABLE
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror.lower()}", UNREACHABLE
    if isinstance(error, MigrationError | OSError):
        return str(error), UNREACHABLE
    if isinstance(error, OAuthError):
        return f"the issuer refused ({error}); check the user, the client and the scopes", REFUSED
    # The text of an unexpected error may hold a value; its type and place do not.
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{Path(last.filename).name}:{last.lineno}"
    return (
        f"a fault of Gatehouse itself: {type(error).__name__} at {place}; GATEHOUSE_TRACEBACK=1 shows all",
        FAULT,
    )


def say(text: str) -> None:
    """Writes one line to standard error."""
    sys.stderr.write(f"gatehouse: {' '.join(text.split())}\n")
