"""Who calls in the matrix: the user, a caller without a token, and the users and clients of a demo realm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from gatehouse.app.policy import policy_scopes
from gatehouse.client.issuer import IssuerClient, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed

YOU, NOBODY = "you", "no token"
# Shorter ones can expire during a run, which would show in any of its cells.
_MIN_SECONDS = 30.0
# An issuer hashes a password for each login: with all at once, the last ones time out on a busy machine.
_CONCURRENT_REQUESTS = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """A column of the matrix.

    Attributes:
        name: Its name, unique in the matrix.
        about: Who it is.
        token: Its access token, None to send none.
    """

    name: str
    about: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Callers:
    """The callers of one run.

    Attributes:
        found: Those with a token, and the one without.
        missing: Why the others have none, by name.
    """

    found: Sequence[Caller]
    missing: dict[str, str]


async def find_callers(profile: Profile, user: str, token: str) -> Callers:
    """Return the callers, with new tokens for all but the user.

    Args:
        profile: Its passwords and client secrets; only the profile of a demo realm has them.
        user: Name of the user who is signed in.
        token: Access token of that user.
    """
    you = Caller(YOU, f"{user}, who is signed in", token)
    found, missing = [you, Caller(NOBODY, "a call without an access token")], {}
    demo = [*profile.passwords, *(name for name in profile.clients if name != profile.api_client)]
    if demo:
        try:
            async with open_issuer_client(profile) as issuer:
                limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)
                tokens = await asyncio.gather(*(_token(profile, issuer, limit, name) for name in demo))
        except IssuerUnavailable as error:
            return Callers(found, dict.fromkeys(demo, f"the issuer does not respond ({error})"))
        for name, answer in zip(demo, tokens, strict=True):
            if isinstance(answer, str):
                missing[name] = answer
            else:
                kind = "user" if name in profile.passwords else "client"
                found.append(Caller(name, f"{kind} of the demo realm", answer.access_token))
    return Callers(found, missing)


def _request(profile: Profile, issuer: IssuerClient, name: str) -> Awaitable[TokenResponse]:
    password = profile.passwords.get(name)
    if password is not None:
        return issuer.user_token(name, password.get_secret_value(), " ".join(sorted(policy_scopes())))
    return _client_token(issuer, name)


async def _client_token(issuer: IssuerClient, name: str) -> TokenResponse:
    """Return the token of a client with all scopes that it may have; an issuer refuses a request for more."""
    allowed = []
    for scope in sorted(policy_scopes()):
        try:
            await issuer.client_token(name, scope)
        except TokenRequestFailed as error:
            if error.error != "invalid_scope":
                raise
        else:
            allowed.append(scope)
    return await issuer.client_token(name, " ".join(allowed))


async def _token(
    profile: Profile, issuer: IssuerClient, limit: asyncio.Semaphore, name: str
) -> TokenResponse | str:
    """Return a token, or why there is none."""
    try:
        async with limit:
            response = await _request(profile, issuer, name)
    except TokenRequestFailed as error:
        return f"the issuer refused ({error})"
    except IssuerUnavailable as error:
        return f"the issuer does not respond ({error})"
    if response.expires_in < _MIN_SECONDS:
        return f"its tokens are valid for {response.expires_in:g} s, which is too short"
    return response
