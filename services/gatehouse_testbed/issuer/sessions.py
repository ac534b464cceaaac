"""State of the issuer: sessions, codes, refresh tokens and revoked tokens, all of them bounded."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin

MAX_ENTRIES = 10_000
V = TypeVar("V")


class Bounded(OrderedDict[str, V], Generic[V]):
    """A mapping that drops its oldest entry when it is full."""

    def __setitem__(self, key: str, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > MAX_ENTRIES:
            self.popitem(last=False)


@dataclass(slots=True)
class Session:
    """A session of a user; `auth_time` is None until a password is entered in a browser."""

    sid: str
    user_id: str
    started_at: float
    last_used: float
    auth_time: int | None = None
    acr: str = "1"
    active: bool = True

    def record_login(self, now: float) -> None:
        """Record that the user has entered a password in a browser."""
        self.auth_time, self.acr, self.last_used = int(now), "1", now


@dataclass(slots=True)
class Code(AuthorizationCodeMixin):
    """An authorization code, as Authlib's grant reads it."""

    code: str
    client_id: str
    redirect_uri: str
    scope: str
    session: Session
    expires_at: float
    code_challenge: str
    nonce: str
    code_challenge_method: str = "S256"

    def get_redirect_uri(self) -> str:
        """See AuthorizationCodeMixin."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """See AuthorizationCodeMixin."""
        return self.scope


@dataclass(slots=True)
class RefreshToken:
    """A refresh token, as Authlib's grant reads it."""

    value: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False)
    client_id: str
    scope: str
    session: Session
    used: bool = False

    def check_client(self, client: object) -> bool:
        """Return whether it was issued to `client`."""
        return getattr(client, "client_id", None) == self.client_id

    def get_scope(self) -> str:
        """Return the scopes that were requested first."""
        return self.scope


@dataclass(slots=True)
class DeviceCode:
    """A device authorization (RFC 8628); its user decides by a session or a denial.

    Attributes:
        interval: Seconds between two polls.
        poll_at: When the device may poll next.
    """

    code: str = field(repr=False)
    user_code: str = field(repr=False)
    client_id: str
    scope: str
    code_challenge: str
    expires_at: float
    interval: int
    poll_at: float = 0.0
    session: Session | None = None
    denied: bool = False

    def is_waiting(self, now: float) -> bool:
        """Return whether the user can still decide."""
        return self.session is None and not self.denied and now < self.expires_at


class Sessions:
    """The state of a realm."""

    def __init__(self) -> None:
        self.sessions: Bounded[Session] = Bounded()
        self.codes: Bounded[Code] = Bounded()
        self.spent_codes: Bounded[Session] = Bounded()
        self.device_codes: Bounded[DeviceCode] = Bounded()
        self.refresh_tokens: Bounded[RefreshToken] = Bounded()
        self.revoked: Bounded[bool] = Bounded()

    def open(self, user_id: str, now: float) -> Session:
        """Start a session."""
        session = Session(secrets.token_urlsafe(16), user_id, started_at=now, last_used=now)
        self.sessions[session.sid] = session
        return session

    def end(self, session: Session) -> None:
        """End a session; its tokens become inactive."""
        session.active = False
        self.sessions.pop(session.sid, None)

    def end_of_user(self, user_id: str) -> None:
        """End all sessions of a user."""
        for session in [s for s in self.sessions.values() if s.user_id == user_id]:
            self.end(session)
