"""What the handlers of all services need of the call they serve.

`gatehouse.runtime` does not re-export it, so that commands that only read the specs import no server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from gatehouse.domain import InvalidArgument
from gatehouse.rpc import current_call, current_principal
from gatehouse.storage import Actor, PageRequest, PageTokenError


def current_actor() -> Actor:
    """Return the caller of the current call, as the audit trail records it."""
    call, principal = current_call(), current_principal()
    return Actor(principal.subject, principal.client_id, call.method.name, call.trace_id)


def remaining_seconds() -> float | None:
    """Return the seconds until the deadline of the current call, or None if it has no deadline."""
    return current_call().deadline_seconds()


class ListRequest(Protocol):
    """Request of a List method (AIP-158)."""

    @property
    def page_token(self) -> str:
        """`next_page_token` of the previous response, or ""."""

    @property
    def page_size(self) -> int:
        """Largest number of results, or 0."""


@contextmanager
def requested_page(request: ListRequest) -> Iterator[PageRequest]:
    """Yield the page that `request` asks for.

    Raises:
        InvalidArgument: The token is invalid, so the body raised PageTokenError.
    """
    try:
        yield PageRequest(request.page_token, request.page_size)
    except PageTokenError:
        raise InvalidArgument(
            "page_token",
            "PAGE_TOKEN_INVALID",
            "page_token: invalid or from another query; request the first page again",
        ) from None
