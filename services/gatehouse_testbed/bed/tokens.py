"""Tokens on demand: good ones with any content, and the ones that a resource server must refuse, by name."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749.errors import InvalidScopeError

from gatehouse_testbed.bed.token_request import TokenRequest, UnknownName
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Client, User
from gatehouse_testbed.issuer.tokens import Tokens

OVERSIZE_BYTES = 8 * 1024
# In the year 2100.
FAR_FUTURE = 4_102_444_800


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A kind of token.

    Attributes:
        description: What is wrong with it, and the source of the rule.
        make: Makes it of a request.
        accepted: Whether a correct resource server accepts it.
    """

    description: str
    make: Callable[[TokenFactory, TokenRequest], str]
    accepted: bool = False


class TokenFactory:
    """Makes tokens of the realm as it is now.

    Args:
        tokens: The tokens of the issuer.
        others: Keys that the issuer does not publish.
    """

    def __init__(self, tokens: Tokens, others: SigningKeys) -> None:
        self._tokens = tokens
        self._others = others

    def make(self, request: TokenRequest) -> str:
        """Make a token.

        Raises:
            UnknownName: There is no such user, client or kind of token.
            ValueError: The algorithm is not ES256 or RS256.
        """
        named = NAMED_TOKENS.get(request.name)
        if named is None:
            raise UnknownName(f"{request.name}: unknown token; use one of {', '.join(NAMED_TOKENS)}")
        return named.make(self, request)

    def valid(self, request: TokenRequest, **changes: Any) -> str:
        """Make a token that the issuer has signed, with changed claims."""
        header, claims = self._content(request, changes)
        return self._tokens.keys.sign(claims, header["alg"], header["typ"])

    def of_other_key(self, request: TokenRequest) -> str:
        """Make a token that a key signed which the issuer does not publish."""
        header, claims = self._content(request, {})
        return self._others.sign(claims, header["alg"], header["typ"])

    def unsigned(self, request: TokenRequest) -> str:
        """Make a token with `alg` none."""
        header, claims = self._content(request, {})
        return f"{_encode(header | {'alg': 'none'})}.{_encode(claims)}."

    def of_public_key(self, request: TokenRequest) -> str:
        """Make a token that a server accepts if it lets `alg` choose how the public key is used."""
        signed = self.valid(request)
        header, payload, _ = signed.split(".")
        found = _decode(header)
        content = f"{_encode(found | {'alg': 'HS256'})}.{payload}"
        mac = hmac.digest(self._tokens.keys.public_pem(found["kid"]), content.encode(), "sha256")
        return f"{content}.{_base64(mac)}"

    def tampered(self, request: TokenRequest) -> str:
        """Make a token whose claims were changed after it was signed."""
        head, payload, signature = self.valid(request).split(".")
        claims = _decode(payload)
        return f"{head}.{_encode(claims | {'scope': claims.get('scope', '') + ' admin'})}.{signature}"

    def revoked(self, request: TokenRequest) -> str:
        """Make a token and revoke it."""
        token = self.valid(request)
        self.revoke(token)
        return token

    def revoke(self, token: str) -> None:
        """Revoke an access token; one that the issuer does not know is ignored (RFC 7009 section 2.2)."""
        claims = self._tokens.keys.verify(token)
        if claims is not None:
            self._tokens.sessions.revoked[claims["jti"]] = True

    def refresh_token(self, request: TokenRequest) -> str:
        """Make a refresh token."""
        client, user = self._client(request), self._user(request)
        session = self._tokens.sessions.open(user.user_id, self._tokens.clock())
        return self._tokens.refresh_token(client, self._scope(client, request), session)

    def id_token(self, request: TokenRequest) -> str:
        """Make an ID token."""
        client, user = self._client(request), self._user(request)
        session = self._tokens.sessions.open(user.user_id, self._tokens.clock())
        access_token, _, scope = self._tokens.access_token(
            client, user, self._scope(client, request), session
        )
        return self._tokens.id_token(client, user, scope, session, "", access_token)

    def _content(
        self, request: TokenRequest, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return header and claims of a new token."""
        tokens, client, user = self._tokens, self._client(request), self._user(request)
        is_user = not user.service_account_client_id
        session = tokens.sessions.open(user.user_id, tokens.clock()) if is_user else None
        token, _, _ = tokens.access_token(client, user, self._scope(client, request), session)
        header, payload, _ = token.split(".")
        claims = _decode(payload)
        if request.lifetime_seconds is not None:
            claims["exp"] = claims["iat"] + request.lifetime_seconds
            claims["iat"] = min(claims["iat"], claims["exp"] - 1)
        claims |= {**request.claims, **changes}
        found = _decode(header) | request.header
        if request.algorithm is not None:
            found["alg"] = request.algorithm
        return found, {name: value for name, value in claims.items() if value is not None}

    def _client(self, request: TokenRequest) -> Client:
        client = self._tokens.realm.clients.get(request.client)
        if client is None:
            raise UnknownName(f"{request.client}: unknown client; see `clients` of the realm file")
        return client

    def _user(self, request: TokenRequest) -> User:
        realm = self._tokens.realm
        if request.user is not None:
            user = realm.user_named(request.user)
            if user is None:
                raise UnknownName(f"{request.user}: unknown user; see `users` of the realm file")
            return user
        account = realm.service_account(request.client)
        if account is None:
            raise UnknownName(f"{request.client}: has no service account; name a user")
        return account

    def _scope(self, client: Client, request: TokenRequest) -> str:
        scope = request.scope or " ".join(client.optional_client_scopes)
        try:
            self._tokens.check_scope(client, scope or None)
        except InvalidScopeError:
            raise UnknownName(
                f"{scope}: {client.client_id} may not request these scopes; see `optionalClientScopes` of the"
                " realm file, or put others into a token with `claims`"
            ) from None
        return scope


def _encode(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def _expired(factory: TokenFactory, request: TokenRequest) -> str:
    return factory.valid(request.model_copy(update={"lifetime_seconds": -600}))


def _with_claims(**claims: Any) -> Callable[[TokenFactory, TokenRequest], str]:
    return lambda factory, request: factory.valid(request, **claims)


def _opaque(_factory: TokenFactory, _request: TokenRequest) -> str:
    return secrets.token_urlsafe(32)


NAMED_TOKENS: Mapping[str, NamedToken] = {
    "valid": NamedToken("a good token", TokenFactory.valid, accepted=True),
    "expired": NamedToken("`exp` is in the past (RFC 7519 section 4.1.4)", _expired),
    "not_yet_valid": NamedToken(
        "`nbf` is in the future (RFC 7519 section 4.1.5)", _with_claims(nbf=FAR_FUTURE)
    ),
    "wrong_audience": NamedToken(
        "`aud` names another service (RFC 8725 section 3.9)", _with_claims(aud="another-service")
    ),
    "wrong_issuer": NamedToken(
        "`iss` names another issuer (RFC 8725 section 3.8)",
        _with_claims(iss="https://issuer.example/realms/other"),
    ),
    "unknown_key": NamedToken(
        "signed by a key that the issuer does not publish (RFC 7515 section 6)", TokenFactory.of_other_key
    ),
    "tampered": NamedToken("changed after it was signed (RFC 7515 section 5.2)", TokenFactory.tampered),
    "alg_none": NamedToken("not signed: `alg` is none (RFC 8725 section 3.1)", TokenFactory.unsigned),
    "alg_hmac": NamedToken(
        "`alg` is HS256, and the public key is the secret (RFC 8725 section 2.1)", TokenFactory.of_public_key
    ),
    "revoked": NamedToken("revoked; only introspection detects it (RFC 7009)", TokenFactory.revoked),
    "refresh_token": NamedToken(
        "a refresh token in place of an access token (RFC 6749 section 1.5)", TokenFactory.refresh_token
    ),
    "id_token": NamedToken(
        "an ID token in place of an access token (RFC 9068 section 4)", TokenFactory.id_token
    ),
    "oversized": NamedToken(
        "signed by the issuer, and longer than 8 KiB", _with_claims(padding="x" * OVERSIZE_BYTES)
    ),
    "opaque": NamedToken("random characters that the issuer does not know (RFC 7662 section 2.2)", _opaque),
}
"""Every kind of token by its name."""
