"""Forms of calls that a service wants a stronger login for, kept until the user has logged in again."""

from __future__ import annotations

from collections.abc import Mapping

from gatehouse_console.recent import Recent
from gatehouse_console.sessions import Session

# Each is at most as large as a form may be.
MAX_KEPT = 100
KEPT_SECONDS = 600.0


class KeptForms:
    """The last such form of each session."""

    def __init__(self) -> None:
        self._forms: Recent[tuple[str, Mapping[str, str]]] = Recent(MAX_KEPT, KEPT_SECONDS)

    def keep(self, session: Session, path: str, form: Mapping[str, str]) -> None:
        """Keep a form that was sent to a path."""
        content = {name: value for name, value in form.items() if name != "csrf"}
        self._forms[session.id] = (path, content)

    def take(self, session: Session, path: str) -> Mapping[str, str]:
        """Remove and return the form of a path, which is empty if there is none."""
        kept = self._forms.get(session.id)
        if kept is None or kept[0] != path:
            return {}
        self._forms.pop(session.id)
        return kept[1]

    def move(self, previous: Session | None, session: Session) -> None:
        """Give the form of a session to the next one in the same browser, if that is of the same user."""
        kept = self._forms.pop(previous.id) if previous is not None else None
        if previous is not None and kept is not None and previous.subject == session.subject != "":
            self._forms[session.id] = kept
