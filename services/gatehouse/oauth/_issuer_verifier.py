"""Verification of the tokens of one issuer: signature, introspection, or both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import httpx

from gatehouse.oauth._claims import ClaimsVerifier
from gatehouse.oauth._endpoints import Endpoints
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable, OAuthError
from gatehouse.oauth.introspection import OVERLOAD, Introspected, IntrospectionVerifier
from gatehouse.oauth.jwt import JwtVerifier
from gatehouse.oauth.keys import KeySet
from gatehouse.oauth.observer import Observer, Source
from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.settings import TENANT, IssuerSettings

# The timeout of one introspection is a little shorter, so that it is the one to be reported.
INTROSPECTION_FRACTION = 0.9


class IssuerVerifier:
    """Verifies the tokens of one issuer in its mode: signature, introspection, or both.

    Args:
        config: The issuer.
        http: HTTP client.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        observer: Notified of each request.
    """

    def __init__(
        self,
        config: IssuerSettings,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        observer: Observer,
    ) -> None:
        self.config = config
        self._observer = observer
        self._claims = ClaimsVerifier(config, clock)
        on_introspection = partial(self._report, "introspection")
        self._endpoints = Endpoints(
            config, http, monotonic=monotonic, sleep=sleep, on_introspection=on_introspection
        )
        self._keys: KeySet | None = None
        self._jwt: JwtVerifier | None = None
        self._introspection: IntrospectionVerifier | None = None
        if config.mode != "introspection":
            self._keys = KeySet(
                self._fetch_keys, config.algorithms, monotonic, sleep, partial(self._report, "keys")
            )
            self._jwt = JwtVerifier(config, self._keys, self._claims)
        if config.mode != "jwt":
            self._introspection = IntrospectionVerifier(
                config,
                self._endpoints.introspection,
                http,
                self._claims,
                monotonic=monotonic,
                sleep=sleep,
                on_response=on_introspection,
                timeout_seconds=config.timeout_seconds * INTROSPECTION_FRACTION,
            )

    @property
    def ready(self) -> bool:
        """Whether tokens can be verified: keys, and the introspection endpoint, are known as needed."""
        if self._keys is not None and not self._keys.ready:
            return False
        if self._introspection is None:
            return True
        known = self._endpoints.has_introspection
        # With `jwks_uri`, only the first introspection needs the metadata.
        return self._keys is not None if known is None else known

    def issues(self, claims: Mapping[str, Any]) -> bool:
        """Return whether unverified claims name this issuer, or one of its tenants."""
        issuer = claims.get("iss")
        return isinstance(issuer, str) and issuer in {self.config.issuer, self._claims.issuer_of(claims)}

    async def start(self) -> None:
        """Fetch keys or metadata once; retries run in the background."""
        if self._keys is not None:
            await self._keys.start()
        elif not self.ready:
            await self._endpoints.start()

    async def aclose(self) -> None:
        """Stop all background work."""
        if self._keys is not None:
            await self._keys.aclose()
        if self._introspection is not None:
            await self._introspection.aclose()
        await self._endpoints.aclose()

    async def verify_signature(self, token: PresentedToken) -> Principal | None:
        """Return the principal of a signed token, or None if the mode of this issuer is `introspection`.

        Raises:
            InvalidToken: The token is invalid.
            IssuerUnavailable: Its key is unknown and cannot be fetched now.
        """
        if self._jwt is None:
            return None
        try:
            return await self._jwt.verify(token)
        except InvalidToken as refusal:
            if refusal.reason == "key_unknown":
                self._endpoints.recheck_keys()
            raise

    async def confirm(
        self, token: PresentedToken, token_hash: bytes, signed: Principal | None, *, online: bool, source: str
    ) -> tuple[Principal, Source]:
        """Ask the issuer if its mode requires it, and return the principal and how it was verified.

        Args:
            token: The token.
            token_hash: Its hash.
            signed: The result of `verify_signature`.
            online: Ask the issuer now, in any mode.
            source: See TokenVerifier.verify.

        Raises:
            InvalidToken: The token is invalid.
            IssuerUnavailable: The token cannot be verified now, or `online` is set and the issuer is
                not configured for introspection.
        """
        if self._introspection is None:
            assert signed is not None  # noqa: S101 - every mode has one of the two
            if online:
                raise IssuerUnavailable("introspection_not_configured")
            return signed, "signature"
        try:
            introspected = await self._introspection.verify(token, token_hash, online=online, source=source)
        except IssuerUnavailable as error:
            if error.reason != OVERLOAD:
                self._endpoints.recheck_introspection()
            raise
        principal = introspected.principal if signed is None else self._merge(signed, introspected)
        return principal, "introspection"

    def _report(self, use: str, error: OAuthError | None) -> None:
        self._observer.issuer_asked(self.config.issuer, use, error)

    def _merge(self, signed: Principal, introspected: Introspected) -> Principal:
        """Merge the claims of the signed token and of its introspection, which has the same subject.

        Claims of the token take precedence; introspection adds others, such as a name. Roles are the current
        ones. Scopes, acr and auth_time stay those of the token, because introspection may return those of the
        current session.
        """
        current = introspected.principal
        if current.client_id and current.client_id != signed.client_id:
            raise InvalidToken("client_mismatch")
        merged = replace(
            signed,
            expires_at=min(signed.expires_at, current.expires_at),
            claims=VerifiedClaims(MappingProxyType({**current.claims, **signed.claims})),
        )
        if not introspected.lists_roles:
            return merged
        return replace(
            merged,
            roles=current.roles,
            client_roles=current.client_roles,
            groups=current.groups,
            permissions=current.permissions,
        )

    async def _fetch_keys(self) -> Mapping[str, Any]:
        document = await self._endpoints.fetch_keys()
        keys = document.get("keys")
        if TENANT not in self.config.issuer or not isinstance(keys, list):
            return document
        # Entra lists keys of single tenants too, which must not sign tokens of others.
        return {
            "keys": [
                key for key in keys if isinstance(key, dict) and TENANT in str(key.get("issuer", TENANT))
            ]
        }
