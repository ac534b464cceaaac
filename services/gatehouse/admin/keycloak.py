"""The realm roles of Keycloak users, through Keycloak's admin REST API.

The service account needs one right only: `manage-users` of `realm-management`. So a role is looked up among
those that the user has or can get; `GET roles/{name}` would need `view-realm` too, which reveals much more.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from gatehouse.admin.role_directory import RoleUpdateFailed
from gatehouse.client import TokenSource
from gatehouse.oauth import HttpFailure, IssuerUnavailable, OAuthError, request_url_error, send_bounded

MAX_BODY_BYTES = 1024 * 1024

# An id of Keycloak's own, or that of a federated user: `f:`, the id of the provider, `:`, the id there.
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,254}", re.ASCII)
_NOT_FOUND_REASONS = {"User not found": "identity_unknown", "Role not found": "role_unknown"}


class KeycloakRoleDirectory:
    """A RoleDirectory for the realm roles of one Keycloak realm.

    Args:
        http: HTTP client.
        tokens: Access tokens of a service account with `manage-users`.
        admin_url: URL of the realm in the admin API, such as `https://id.example.com/admin/realms/gatehouse`.
        allow_http: Allow plain HTTP to hosts other than loopback.

    Raises:
        ValueError: `admin_url` is malformed, or uses plain HTTP where it is not allowed.
    """

    def __init__(
        self, http: httpx.AsyncClient, tokens: TokenSource, admin_url: str, *, allow_http: bool = False
    ) -> None:
        error = request_url_error(admin_url, allow_http=allow_http)
        if error:
            raise ValueError(error)
        self._http = http
        self._tokens = tokens
        self._users_url = f"{admin_url.rstrip('/')}/users"

    async def set_role(self, subject: str, role: str, *, granted: bool) -> None:
        """See RoleDirectory.set_role. Sends at most three requests, and none that writes without need."""
        if not _SUBJECT.fullmatch(subject):
            raise RoleUpdateFailed("identity_unknown")
        url = f"{self._users_url}/{subject}/role-mappings/realm"
        try:
            assigned = await self._find_role(url, role)
        except RoleUpdateFailed as error:
            if error.reason == "identity_unknown" and not granted:
                return  # a deleted user has no roles
            raise
        if granted == (assigned is not None):
            return
        found = await self._find_role(f"{url}/available", role) if granted else assigned
        if found is None:
            raise RoleUpdateFailed("role_unknown")
        await self._request("POST" if granted else "DELETE", url, [found])

    async def _find_role(self, url: str, role: str) -> dict[str, str] | None:
        """Return the representation of a role in the list at `url`, or None if the list does not have it."""
        roles = await self._request("GET", url)
        if not isinstance(roles, list):
            raise RoleUpdateFailed("malformed_response")
        for entry in roles:
            if isinstance(entry, dict) and entry.get("name") == role and isinstance(entry.get("id"), str):
                return {"id": entry["id"], "name": role}
        return None

    async def _request(self, method: str, url: str, body: object = None) -> Any:
        """Send a request and return the JSON of the response, or None if the body is not JSON."""
        try:
            token = await self._tokens.token()
        except OAuthError as error:
            reason = "token_unavailable" if isinstance(error, IssuerUnavailable) else "token_refused"
            raise RoleUpdateFailed(reason, outage=True, detail=str(error)) from None
        headers = {"accept": "application/json", "authorization": f"Bearer {token}"}
        request = self._http.build_request(method, url, headers=headers, json=body)
        writes = method != "GET"
        try:
            response, raw = await send_bounded(self._http, request, max_body_bytes=MAX_BODY_BYTES)
        except HttpFailure as error:
            outage = error.reason != "body_too_large"
            raise RoleUpdateFailed(
                error.reason, outage=outage, uncertain=writes and error.sent, detail=error.detail
            ) from None
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError):
            content = None
        if response.is_success:
            return content
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._tokens.invalidate(token)
        raise _failure(response.status_code, content, writes=writes)


def _failure(status: int, content: object, *, writes: bool) -> RoleUpdateFailed:
    """Return the error for a response that is not a success."""
    if status == httpx.codes.NOT_FOUND:
        # A wrong URL or realm is 404 too, so the text decides.
        text = content.get("error") if isinstance(content, dict) else None
        reason = _NOT_FOUND_REASONS.get(str(text), "not_found")
        return RoleUpdateFailed(reason, outage=reason == "not_found")
    detail = f"HTTP {status}"
    if status == httpx.codes.UNAUTHORIZED:
        return RoleUpdateFailed("unauthorized", outage=True, detail=detail)
    if status == httpx.codes.FORBIDDEN:
        return RoleUpdateFailed("forbidden", detail=detail)
    if status == httpx.codes.TOO_MANY_REQUESTS or httpx.codes.is_server_error(status):
        return RoleUpdateFailed("unavailable", outage=True, uncertain=writes, detail=detail)
    return RoleUpdateFailed("refused", detail=detail)
