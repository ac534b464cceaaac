"""A `www-authenticate` challenge in words (RFC 6750 section 3, RFC 9470 section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What an authorization request can ask for to satisfy a challenge (RFC 9470 section 4).
_STEP_UP = ("acr_values", "max_age")
# A value is a token or in quotes (RFC 9110 section 11.2).
_PARAMETER = re.compile(r'([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def explain_challenge(challenge: str) -> str:
    """Return what a challenge asks the caller to do, "" if there is no challenge."""
    values = _parameters(challenge)
    scopes = ", ".join(values.get("scope", "").split())
    match values.get("error"):
        case "insufficient_scope":
            needed = f" The call needs all of: {scopes}." if scopes else ""
            return f"The token is valid, but does not give enough rights.{needed}"
        case "invalid_token":
            return (
                "The token is not accepted: it is expired, revoked, malformed, or of another issuer or "
                "audience. Get a new one."
            )
        case "insufficient_user_authentication":
            return f"The token is valid, but the login is not good enough. Log in again{_login(values)}."
        case None if challenge:
            return "The call has no token. Log in, and send an access token in the metadata `authorization`."
    return "The token is refused." if challenge else ""


def step_up(challenge: str) -> Mapping[str, str]:
    """Return what to ask the issuer for so that a call succeeds; nothing if that cannot help."""
    values = _parameters(challenge)
    if values.get("error") != "insufficient_user_authentication":
        return {}
    # With the password again, even if the issuer ignores these parameters or remembers a weaker login.
    return {"again": "yes"} | {name: values[name] for name in _STEP_UP if name in values}


def _parameters(challenge: str) -> dict[str, str]:
    found = _PARAMETER.findall(challenge)
    return {name: token or re.sub(r"\\(.)", r"\1", quoted) for name, quoted, token in found}


def _login(values: dict[str, str]) -> str:
    ways = []
    if "acr_values" in values:
        ways.append(f"with authentication context {values['acr_values']}")
    if "max_age" in values:
        ways.append(f"within {values['max_age']} s of the call")
    return f", {' and '.join(ways)}" if ways else ""
