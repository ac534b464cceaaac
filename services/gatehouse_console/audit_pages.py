"""The audit trail: who changed what, and when."""

# <part admin/>

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse.admin.v1 import admin_pb2
from gatehouse_console.forms import read_query
from gatehouse_console.people import as_user_id, look_up
from gatehouse_console.site import Site
from gatehouse_console.unary import ask

PAGE_SIZE = 50
_FILTERS = ("resource", "subject", "issuer")


class AuditPages:
    """The page of the audit trail.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route("/audit", self.show)]

    async def show(self, request: Request) -> Response:
        """Show a page of events, newest first."""
        session, query = self._site.session(request), read_query(request)
        filters = {name: query[name].strip() for name in _FILTERS if query.get(name, "").strip()}
        page_token = query.get("page_token", "")
        answer = await ask(
            self._site,
            session,
            "admin",
            "ListAuditEvents",
            admin_pb2.ListAuditEventsRequest(page_size=PAGE_SIZE, page_token=page_token, **filters),
        )
        events = answer.response.audit_events if answer.ok else []
        ids = {each.resource: _user_id(each.resource) for each in events}
        next_token = answer.response.next_page_token if answer.ok else ""
        return self._site.page(
            request,
            "audit.html",
            answer=answer,
            ids=ids,
            users=await look_up(self._site, session, filter(None, ids.values())),
            filters=filters,
            newest=f"/audit?{urlencode(filters)}" if page_token else "",
            older=f"/audit?{urlencode(filters | {'page_token': next_token})}" if next_token else "",
        )


def _user_id(resource: str) -> str | None:
    """Return the id of the user that a resource such as `users/0190.../roles/editor` belongs to."""
    collection, _, rest = resource.partition("/")
    return as_user_id(rest.partition("/")[0]) if collection == "users" else None
