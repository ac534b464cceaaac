"""Who is signed in: sessions in memory, found by the random id in a cookie."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gatehouse.client import MemoryStore, OAuthClient, Refresh, TokenManager, TokenResponse
from gatehouse.client.issuer import decode
from gatehouse.client.login_store import Login
from gatehouse.client.sessions import name_of_user
from gatehouse.settings import ConfigurationError
from gatehouse_console.config import Origin
from gatehouse_console.recent import Recent

MAX_SESSIONS = 10_000
IDLE_SECONDS = 3600.0
MAX_SECONDS = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user. The tokens stay in this process.

    Attributes:
        id: The value of the cookie.
        user: Name of the user, for display.
        subject: `sub` of the user, "" if unknown.
        store: The tokens.
        tokens: Gives the access token, and refreshes it.
        id_token: Identifies the login at the issuer when the user signs out.
        csrf: Must be in every form of this session.
        started_at: Time of the sign-in, on the monotonic clock.
    """

    id: str = field(repr=False)
    user: str
    subject: str = field(repr=False)
    store: MemoryStore = field(repr=False)
    tokens: TokenManager = field(repr=False)
    id_token: str = field(repr=False)
    csrf: str = field(repr=False)
    started_at: float

    @property
    def login(self) -> Login | None:
        """The tokens, None if the issuer has ended the login."""
        return self.store.load()

    def owns(self, csrf: str) -> bool:
        """Return whether a form is of this session."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())


class Sessions:
    """All sessions.

    Args:
        origin: The origin of the console.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(self, origin: Origin, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._cookie = origin.cookie("session")
        self._secure = origin.is_https
        self._monotonic = monotonic
        self._sessions: Recent[Session] = Recent(MAX_SESSIONS, IDLE_SECONDS, monotonic)
        self._on_end: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, request: Request) -> Session | None:
        """Return the session of a browser, None if there is none or it has ended."""
        session = self._sessions.get(request.cookies.get(self._cookie, ""))
        if session is None or self._monotonic() - session.started_at < MAX_SECONDS:
            return session
        self.end(session)
        return None

    def is_named(self, request: Request) -> bool:
        """Return whether a browser has the cookie of a session, such as of one that has ended."""
        return bool(request.cookies.get(self._cookie))

    def begin(self, client: OAuthClient, tokens: TokenResponse) -> Session:
        """Begin a session, always with a new id."""
        store, claims = MemoryStore(), _claims(tokens)
        store.save(Login.of(tokens, time.time()))
        session = Session(
            id=secrets.token_urlsafe(32),
            user=name_of_user(claims) or "you",
            subject=str(claims.get("sub", "")),
            store=store,
            tokens=TokenManager(Refresh(client, store)),
            id_token=tokens.id_token or "",
            csrf=secrets.token_urlsafe(32),
            started_at=self._monotonic(),
        )
        self._sessions[session.id] = session
        return session

    def renew(self, client: OAuthClient, session: Session) -> tuple[Session, Callable[[], None]]:
        """Have a session refresh its access token at its next use although it is valid.

        Returns:
            The session, and what makes the present token usable again if it cannot be refreshed.
        """
        login, store = session.login, session.store
        due = None if login is None else replace(login, expires_at=0.0)
        store.save(due)
        renewed = replace(session, tokens=TokenManager(Refresh(client, store)))
        self._sessions[session.id] = renewed

        def undo() -> None:
            if store.load() is due:  # no other request has refreshed it
                store.save(login)
            self._sessions[session.id] = session

        return renewed, undo

    def on_end(self, call: Callable[[str], None]) -> None:
        """Have a function called with the id of each session that is ended."""
        self._on_end.append(call)

    def end(self, session: Session | None) -> None:
        """End a session."""
        if session is not None:
            self._sessions.pop(session.id)
            for call in self._on_end:
                call(session.id)

    def set_cookie(self, response: Response, session: Session) -> None:
        """Set the session cookie, which the browser deletes when it is closed."""
        response.set_cookie(
            self._cookie, session.id, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def delete_cookie(self, response: Response) -> None:
        """Have the browser forget its session."""
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="lax")


def _claims(tokens: TokenResponse) -> dict[str, Any]:
    try:
        claims = decode(tokens.id_token or "")["claims"]
    except ConfigurationError:
        return {}
    return claims if isinstance(claims, dict) else {}
