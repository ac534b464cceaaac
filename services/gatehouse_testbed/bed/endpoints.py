"""The endpoints of the issuer, by the names that faults and recorded requests have for them."""

from __future__ import annotations

import re
from typing import Literal, get_args

Endpoint = Literal[
    "discovery",
    "jwks",
    "authorization",
    "login",
    "token",
    "introspection",
    "revocation",
    "userinfo",
    "logout",
    "device",
    "admin",
    "other",
]
ENDPOINTS: tuple[str, ...] = get_args(Endpoint)
_PATHS = {
    "discovery": r".*/\.well-known/openid-configuration|.*/\.well-known/oauth-authorization-server.*",
    "jwks": ".*/protocol/openid-connect/certs",
    "authorization": ".*/protocol/openid-connect/auth",
    "login": ".*/login-actions/.*",
    "token": ".*/protocol/openid-connect/token",
    "introspection": ".*/protocol/openid-connect/token/introspect",
    "revocation": ".*/protocol/openid-connect/revoke",
    "userinfo": ".*/protocol/openid-connect/userinfo",
    "logout": ".*/protocol/openid-connect/logout.*",
    "device": ".*/protocol/openid-connect/auth/device|/realms/[^/]+/device(/status)?",
    "admin": "/admin/.*",
}


def endpoint_of(path: str) -> str:
    """Return the name of the endpoint at a path."""
    return next((name for name, pattern in _PATHS.items() if re.fullmatch(pattern, path)), "other")
