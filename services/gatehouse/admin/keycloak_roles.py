"""Roles at Keycloak, through its admin API, with the one right `manage-users` of `realm-management`.

A role is found in the lists of what a user has and may be given: `GET roles/{name}` would want
`view-realm` as well, which shows far more of the realm than roles.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx

from gatehouse.admin.role_directory import RoleNotApplied
from gatehouse.client import TokenSource
from gatehouse.oauth import IssuerUnavailable, OAuthError, url_fault

MAX_BODY_BYTES = 1024 * 1024
REQUEST_SECONDS = 5.0

# As Keycloak's own ids are, `f:` and a provider's before those of a federated user.
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,254}", re.ASCII)
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
# Nothing has been sent to the provider when one of these is raised.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class KeycloakRoles:
    """A RoleDirectory: the realm roles of the users of one Keycloak realm.

    Args:
        http: Client to ask with.
        tokens: Gives the access token of a service account that may `manage-users`.
        admin_url: The realm in the admin API, such as `https://id.example.com/admin/realms/gatehouse`.
        allow_http: Whether plain HTTP beyond loopback is accepted.

    Raises:
        ValueError: `admin_url` must not be asked.
    """

    def __init__(
        self, http: httpx.AsyncClient, tokens: TokenSource, admin_url: str, *, allow_http: bool = False
    ) -> None:
        fault = url_fault(admin_url, allow_http=allow_http)
        if fault:
            raise ValueError(fault)
        self._http = http
        self._tokens = tokens
        self._users = f"{admin_url.rstrip('/')}/users"

    async def apply(self, subject: str, role: str, *, granted: bool) -> None:
        """See RoleDirectory.apply; at most three requests, and none that writes when all is well already."""
        if not _SUBJECT.fullmatch(subject):
            raise RoleNotApplied("identity_unknown")
        mappings = f"{self._users}/{subject}/role-mappings/realm"
        try:
            held = await self._find(mappings, role)
        except RoleNotApplied as error:
            if error.reason == "identity_unknown" and not granted:
                return  # who is gone has no role
            raise
        if granted == (held is not None):
            return
        found = await self._find(f"{mappings}/available", role) if granted else held
        if found is None:
            raise RoleNotApplied("role_unknown")
        await self._ask("POST" if granted else "DELETE", mappings, [found])

    async def _find(self, url: str, role: str) -> dict[str, str] | None:
        """Returns what names a role of a list to Keycloak, None when the list has no such role."""
        roles = await self._ask("GET", url)
        if not isinstance(roles, list):
            raise RoleNotApplied("malformed_answer")
        for entry in roles:
            if isinstance(entry, dict) and entry.get("name") == role and isinstance(entry.get("id"), str):
                return {"id": entry["id"], "name": role}
        return None

    async def _ask(self, method: str, url: str, body: object = None) -> Any:
        """Sends one request and returns the JSON of its answer, None when that is no JSON."""
        try:
            token = await self._tokens.token()
        except OAuthError as error:
            away = isinstance(error, IssuerUnavailable)
            raise RoleNotApplied("token_unavailable" if away else "token_refused", outage=True) from None
        headers = _HEADERS | {"authorization": f"Bearer {token}"}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["content-type"] = "application/json"
        status, raw = await self._send(
            self._http.build_request(method, url, headers=headers, content=content)
        )
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if httpx.codes.is_success(status):
            return answer
        if status == httpx.codes.UNAUTHORIZED:
            self._tokens.invalidate(token)
        raise _refusal(status, answer, writes=method != "GET")

    async def _send(self, request: httpx.Request) -> tuple[int, bytes]:
        """Returns status and body of the answer."""
        fault, sent = "", request.method != "GET"
        body = bytearray()
        status = 0
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._http.send(request, stream=True, follow_redirects=False, auth=None)
                try:
                    status = response.status_code
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_BODY_BYTES:
                            fault = "body_too_large"
                            break
                finally:
                    await response.aclose()
        except _NOT_SENT:
            fault, sent = "unreachable", False
        except (TimeoutError, httpx.TimeoutException):
            fault = "timeout"
        except (httpx.HTTPError, OSError):
            fault = "broken_off"
        # Raised out here, so that no exception of httpx, which holds the request and its token, goes along.
        if fault:
            raise RoleNotApplied(fault, outage=fault != "body_too_large", uncertain=sent)
        return status, bytes(body)


def _refusal(status: int, answer: object, *, writes: bool) -> RoleNotApplied:
    """Says what an answer that is no success means."""
    text = answer.get("error") if isinstance(answer, dict) else None
    if status == httpx.codes.NOT_FOUND:
        # A wrong address or realm is 404 as well, and says nothing of the user.
        known = {"User not found": "identity_unknown", "Role not found": "role_unknown"}
        reason = known.get(text, "not_found") if isinstance(text, str) else "not_found"
        return RoleNotApplied(reason, outage=reason == "not_found")
    if status == httpx.codes.UNAUTHORIZED:
        return RoleNotApplied("unauthorized", outage=True)
    if status == httpx.codes.FORBIDDEN:
        return RoleNotApplied("forbidden")
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return RoleNotApplied("unavailable", outage=True, uncertain=writes)
    return RoleNotApplied("refused")
