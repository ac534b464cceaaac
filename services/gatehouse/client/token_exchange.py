"""Token exchange (RFC 8693): a token for another one, such as to call a service on behalf of the caller."""

from __future__ import annotations

from dataclasses import dataclass

from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.client.token_source import TokenSource
from gatehouse.oauth import TokenRequestFailed

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type
JWT = "urn:ietf:params:oauth:token-type:jwt"

_INVALID_SUBJECT = frozenset({"invalid_request", "invalid_grant", "invalid_token"})


def refuses_subject(error: TokenRequestFailed) -> bool:
    """Return whether the issuer refused the subject token itself (RFC 8693 section 2.2.2)."""
    return error.error in _INVALID_SUBJECT


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """A Grant that exchanges the token of a source.

    Args:
        client: The client that exchanges.
        subject: Supplies the token of the party to act for.
        scope: Scopes to request, separated by spaces. Name them, and only those that the subject token has:
            issuers may grant what the client and the user may have, even if the subject token lacks it.
        audience: Service that the new token is for.
        resource: Values of `resource` (RFC 8707), separated by spaces.
        actor: Supplies the token of the party that acts; None if the issuer takes the client.
        subject_token_type: Type of the subject token, such as ACCESS_TOKEN or JWT.
        actor_token_type: Type of the actor token.
    """

    client: OAuthClient
    subject: TokenSource
    scope: str
    audience: str = ""
    resource: str = ""
    actor: TokenSource | None = None
    subject_token_type: str = ACCESS_TOKEN
    actor_token_type: str = ACCESS_TOKEN

    async def request(self) -> TokenResponse:
        """See Grant. If the issuer refuses the subject token, the next request takes another one."""
        subject = await self.subject.token()
        form: dict[str, str | list[str]] = {
            "grant_type": GRANT_TYPE,
            "subject_token": subject,
            "subject_token_type": self.subject_token_type,
            "requested_token_type": ACCESS_TOKEN,
            "scope": self.scope,
            "audience": self.audience,
            "resource": self.resource.split(),
        }
        if self.actor is not None:
            form |= {"actor_token": await self.actor.token(), "actor_token_type": self.actor_token_type}
        try:
            return await self.client.request_token(form)
        except TokenRequestFailed as error:
            if refuses_subject(error):
                self.subject.invalidate(subject)
            raise
