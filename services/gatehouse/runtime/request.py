"""Helpers for the handlers of all services: the caller, the deadline and the requested page.

`gatehouse.runtime` does not re-export it, so that commands that only read the specs import no server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gatehouse.domain import InvalidArgument
from gatehouse.rpc import current_call, current_principal
from gatehouse.storage import Caller, PageRequest, PageTokenError
from gatehouse.storage.standbys import WriteToken


def current_caller() -> Caller:
    """Return the caller of the current call, as the audit trail records it."""
    call, principal = current_call(), current_principal()
    actor = principal.actor
    return Caller(
        issuer=principal.issuer,
        subject=principal.subject,
        client_id=principal.client_id,
        method=call.method.name,
        trace_id=call.trace_id,
        actor_issuer="" if actor is None else actor.issuer,
        actor_subject="" if actor is None else actor.subject,
    )


def remaining_seconds() -> float | None:
    """Return the seconds until the deadline of the current call, or None if it has no deadline."""
    return current_call().deadline_seconds()


def write_token() -> WriteToken | None:
    """Return what the caller has written, if it accepts answers of standbys; otherwise None."""
    return WriteToken.parse(current_call().metadata.write_token)


def return_write_token(token: str) -> None:
    """Return the token of a write to the caller; do nothing if it is that of a background job."""
    with suppress(LookupError):
        current_call().return_write_token(token)


@contextmanager
def requested_page(page_token: str, page_size: int) -> Iterator[PageRequest]:
    """Yield the page that a List request asks for, and turn PageTokenError into InvalidArgument (AIP-158)."""
    try:
        yield PageRequest(page_token, page_size)
    except PageTokenError:
        raise InvalidArgument(
            "page_token",
            "PAGE_TOKEN_INVALID",
            "page_token: invalid or from another query; request the first page again",
        ) from None
