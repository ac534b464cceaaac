"""Roles: who has which, and granting and revoking them with ManageRoles."""

# <part admin/>

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.admin.v1 import admin_pb2
from gatehouse.app.policy import load_policy
from gatehouse_console.challenges import step_up
from gatehouse_console.forms import read_query
from gatehouse_console.people import find_user, look_up, suggest_users
from gatehouse_console.sessions import Session
from gatehouse_console.site import Site
from gatehouse_console.unary import Answer, ask

PAGE_SIZE = 50
MAX_CHANGES = 20
_PATH = "/roles"
_FILTERS = ("user_id", "role")


class RolePages:
    """The page of the roles.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route(_PATH, self.show), Route(_PATH, self.change, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """Show who has which role."""
        session = self._site.session(request)
        return await self._page(request, session, self._site.kept_forms.take(session, _PATH))

    async def change(self, request: Request) -> Response:
        """Grant or revoke a role."""
        session, form = await self._site.form(request)
        user, role = form.get("user", "").strip(), form.get("role", "").strip()
        user_id, answer = await find_user(self._site, session, user)
        if user_id is not None:
            names = "revoke_roles" if form.get("change") == "revoke" else "grant_roles"
            change = admin_pb2.ManageRolesRequest(user_id=user_id, **{names: [role]})
            answer = await ask(self._site, session, "admin", "ManageRoles", change)
            if answer.ok:
                query = urlencode({"user_id": user_id})
                return RedirectResponse(f"{self._site.origin.url}{_PATH}?{query}", 303)
        if answer is None:
            problem = f"{user}: no user has this email or id" if user else "Enter the email or id of a user"
            return await self._page(request, session, form, problem=problem)
        if step_up(answer.outcome.challenge):
            self._site.kept_forms.keep(session, _PATH, form)
        return await self._page(request, session, form, refused=answer)

    async def _page(
        self,
        request: Request,
        session: Session,
        entered: Mapping[str, str],
        *,
        problem: str = "",
        refused: Answer | None = None,
    ) -> Response:
        site, query = self._site, read_query(request)
        filters = {name: query[name].strip() for name in _FILTERS if query.get(name, "").strip()}
        page_token = query.get("page_token", "")
        bindings = admin_pb2.ListRoleBindingsRequest(page_size=PAGE_SIZE, page_token=page_token, **filters)
        user_id = filters.get("user_id", "")
        changes = admin_pb2.ListRoleChangesRequest(page_size=MAX_CHANGES, user_id=user_id)
        listed, delivered, suggested = await asyncio.gather(
            ask(site, session, "admin", "ListRoleBindings", bindings),
            ask(site, session, "admin", "ListRoleChanges", changes),
            suggest_users(site, session),
        )
        found = listed.response.role_bindings if listed.ok else []
        changed = delivered.response.role_changes if delivered.ok else []
        users = await look_up(site, session, [each.user_id for each in (*found, *changed)])
        next_token = listed.response.next_page_token if listed.ok else ""
        return site.page(
            request,
            "roles.html",
            listed=listed,
            delivered=delivered,
            users=users,
            suggested=suggested,
            roles=sorted({each.role for each in found} | _roles_of_rules()),
            entered=entered,
            problem=problem,
            refused=refused,
            filters=filters,
            first=f"{_PATH}?{urlencode(filters)}" if page_token else "",
            following=f"{_PATH}?{urlencode(filters | {'page_token': next_token})}" if next_token else "",
        )


def _roles_of_rules() -> frozenset[str]:
    return frozenset(role for rule in load_policy().rules.values() for role in rule.roles)
