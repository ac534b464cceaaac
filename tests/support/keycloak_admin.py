"""The role mappings of Keycloak's admin API on a loopback HTTP server that can fail in any way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.support.loopback_http import LoopbackServer, Reply, Request


class FakeKeycloak(LoopbackServer):
    """A server with users, by subject, and their realm roles.

    Attributes:
        roles: Id of each role.
        user_roles: Roles of each user.
        override: Called first; may wait, or return a reply in place of the server's own.
    """

    base_path = "/admin/realms/test"

    def __init__(self) -> None:
        super().__init__()
        self.roles = {"user": "id-of-user", "editor": "id-of-editor", "admin": "id-of-admin"}
        self.user_roles: dict[str, set[str]] = {}
        self.override: Callable[[Request], Awaitable[Reply | None]] | None = None

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Method and role of the requests that change something."""
        return [(r.method, r.json[0]["name"]) for r in self.requests if r.method != "GET"]

    def respond_with(self, reply: Reply, method: str = "") -> None:
        """Send `reply` to all further requests, or to those with `method`."""

        async def override(request: Request) -> Reply | None:
            return reply if method in {"", request.method} else None

        self.override = override

    async def respond(self, request: Request) -> Reply:
        """Return the reply of `override`, otherwise that of Keycloak."""
        reply = await self.override(request) if self.override is not None else None
        return reply or self._respond(request)

    def _respond(self, request: Request) -> Reply:
        parts = request.path.removeprefix(f"{self.base_path}/").split("/")
        if parts[:1] != ["users"] or parts[2:4] != ["role-mappings", "realm"]:
            return Reply({"error": "Unable to find matching target resource method"}, 404)
        assigned = self.user_roles.get(parts[1])
        if assigned is None:
            return Reply({"error": "User not found"}, 404)
        if request.method == "GET":
            names = set(self.roles) - assigned if parts[4:] == ["available"] else assigned
            return Reply([{"id": self.roles[name], "name": name} for name in sorted(names)], 200)
        for role in request.json:
            if self.roles.get(role["name"]) != role["id"]:
                return Reply({"error": "Role not found"}, 404)
            (assigned.add if request.method == "POST" else assigned.discard)(role["name"])
        return Reply(status=204)


@pytest.fixture
async def keycloak() -> AsyncIterator[FakeKeycloak]:
    """A running FakeKeycloak."""
    server = FakeKeycloak()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
