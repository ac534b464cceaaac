"""Verification of the tokens of one issuer: metadata, keys, signature and introspection."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import httpx

from gatehouse.oauth._claims import ClaimsVerifier
from gatehouse.oauth._flight import SingleFlight, wait_at_most
from gatehouse.oauth._http import get_object
from gatehouse.oauth.discovery import Metadata, discover
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable, OAuthError
from gatehouse.oauth.introspection import OVERLOAD, Introspected, IntrospectionVerifier
from gatehouse.oauth.jwt import JwtVerifier
from gatehouse.oauth.keys import START_SECONDS, KeySet, backoff_seconds
from gatehouse.oauth.observer import Observer, Source
from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.settings import TENANT, IssuerSettings

# The timeout of one introspection is a little shorter, so that it is the one to be reported.
INTROSPECTION_FRACTION = 0.9
# Shortest time between two checks for an introspection endpoint that may have moved.
REDISCOVERY_SECONDS = 5.0


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
        self._http = http
        self._monotonic = monotonic
        self._sleep = sleep
        self._observer = observer
        self._claims = ClaimsVerifier(config, clock)
        self._metadata: Metadata | None = None
        self._metadata_doubtful = False
        self._rediscovered_at = -math.inf
        self._discovery: SingleFlight[None, Metadata] = SingleFlight()
        self._discoverer: asyncio.Task[None] | None = None
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
                self._introspection_endpoint,
                http,
                self._claims,
                monotonic=monotonic,
                sleep=sleep,
                on_answer=partial(self._report, "introspection"),
                answer_seconds=config.timeout_seconds * INTROSPECTION_FRACTION,
            )

    @property
    def ready(self) -> bool:
        """Whether tokens can be verified: keys, and the introspection endpoint, are known as needed."""
        if self._keys is not None and not self._keys.ready:
            return False
        if self._introspection is None or self.config.introspection_endpoint is not None:
            return True
        if self._metadata is None:
            return self._keys is not None  # `jwks_uri` is configured; the first introspection needs metadata
        return self._metadata.introspection_endpoint != ""

    def issues(self, claims: Mapping[str, Any]) -> bool:
        """Return whether unverified claims name this issuer, or one that its placeholder stands for."""
        issuer = claims.get("iss")
        return isinstance(issuer, str) and issuer in {self.config.issuer, self._claims.issuer_of(claims)}

    async def start(self) -> None:
        """Fetch keys or metadata once; retries run in the background."""
        if self._keys is not None:
            await self._keys.start()
        elif not self.ready:
            first = self._discovery.begin(None, self._discover)
            self._discoverer = asyncio.create_task(self._discover_until_known())
            await wait_at_most(START_SECONDS, self._sleep, first)

    async def aclose(self) -> None:
        """Stop all background work."""
        if self._keys is not None:
            await self._keys.aclose()
        if self._introspection is not None:
            await self._introspection.aclose()
        if self._discoverer is not None:
            self._discoverer.cancel()
            await asyncio.gather(self._discoverer, return_exceptions=True)
        await self._discovery.aclose()

    async def verify_signature(self, token: PresentedToken) -> Principal | None:
        """Return the principal of a signed token, or None if the mode of this issuer is `introspection`.

        Raises:
            InvalidToken: The token is invalid.
            IssuerUnavailable: Its key is unknown and cannot be fetched at present.
        """
        if self._jwt is None:
            return None
        try:
            return await self._jwt.verify(token)
        except InvalidToken as refusal:
            # Perhaps the key set has moved, and the old one is still served.
            self._metadata_doubtful |= refusal.reason == "key_unknown"
            raise

    async def confirm(
        self, token: PresentedToken, key: bytes, signed: Principal | None, *, online: bool, source: str
    ) -> tuple[Principal, Source]:
        """Ask the issuer if its mode requires it, and return the principal and how it was verified.

        Args:
            token: The token.
            key: Its hash.
            signed: The result of `verify_signature`.
            online: Ask the issuer now, in any mode.
            source: See TokenVerifier.verify.

        Raises:
            InvalidToken: The token is invalid.
            IssuerUnavailable: The token cannot be verified at present, or `online` is set and the issuer is
                not configured for introspection.
        """
        if self._introspection is None:
            assert signed is not None  # noqa: S101 - every mode has one of the two
            if online:
                raise IssuerUnavailable("introspection_not_configured")
            return signed, "signature"
        try:
            introspected = await self._introspection.verify(token, key, online=online, source=source)
        except IssuerUnavailable as error:
            if error.reason != OVERLOAD and self.config.introspection_endpoint is None:
                self._rediscover()
            raise
        principal = introspected.principal if signed is None else self._merge(signed, introspected)
        return principal, "introspection"

    def _report(self, use: str, error: OAuthError | None) -> None:
        self._observer.issuer_asked(self.config.issuer, use, error)

    def _rediscover(self) -> None:
        """Check in the background whether the introspection endpoint has moved."""
        now = self._monotonic()
        if now >= self._rediscovered_at + REDISCOVERY_SECONDS:
            self._rediscovered_at = now
            self._discovery.begin(None, self._discover)

    def _merge(self, signed: Principal, introspected: Introspected) -> Principal:
        """Merge the claims of the signed token and of its introspection.

        Claims of the token take precedence; introspection adds others, such as a name. Roles are the current
        ones. Scopes, acr and auth_time stay those of the token, because introspection may return those of the
        current session.
        """
        answer = introspected.principal
        if answer.subject != signed.subject:
            raise InvalidToken("subject_mismatch")
        if answer.client_id and answer.client_id != signed.client_id:
            raise InvalidToken("client_mismatch")
        merged = replace(
            signed,
            expires_at=min(signed.expires_at, answer.expires_at),
            claims=VerifiedClaims(MappingProxyType({**answer.claims, **signed.claims})),
        )
        if not introspected.lists_roles:
            return merged
        return replace(
            merged,
            roles=answer.roles,
            client_roles=answer.client_roles,
            groups=answer.groups,
            permissions=answer.permissions,
        )

    async def _known_metadata(self) -> Metadata:
        return self._metadata or await self._discovery.run(None, self._discover)

    async def _discover(self) -> Metadata:
        config = self.config
        metadata = await discover(
            self._http,
            config.issuer,
            config.discovery_url,
            allow_http=config.allow_http,
        )
        self._metadata = metadata
        endpoint = config.introspection_endpoint or metadata.introspection_endpoint
        self._metadata_doubtful = self._introspection is not None and not endpoint
        if self._metadata_doubtful:
            self._report("introspection", _endpoint_missing())
        return metadata

    async def _discover_until_known(self) -> None:
        failures = 0
        while True:
            try:
                if failures:
                    await self._discovery.run(None, self._discover)
                await self._introspection_endpoint()
            except IssuerUnavailable as error:
                self._report("introspection", error)
                failures += 1
                await self._sleep(backoff_seconds(failures))
            else:
                self._report("introspection", None)
                return

    async def _introspection_endpoint(self) -> str:
        endpoint = self.config.introspection_endpoint or (await self._known_metadata()).introspection_endpoint
        if not endpoint:
            raise _endpoint_missing()
        return endpoint

    async def _fetch_keys(self) -> Mapping[str, Any]:
        document = await self._fetch_key_set()
        keys = document.get("keys")
        if TENANT not in self.config.issuer or not isinstance(keys, list):
            return document
        # Entra lists keys of single tenants too, which must not sign tokens of others.
        return {
            "keys": [
                key for key in keys if isinstance(key, dict) and TENANT in str(key.get("issuer", TENANT))
            ]
        }

    async def _fetch_key_set(self) -> Mapping[str, Any]:
        allow_http = self.config.allow_http
        if self.config.jwks_uri is not None:
            return await get_object(self._http, self.config.jwks_uri, allow_http=allow_http, what="keys")
        if self._metadata_doubtful:
            # The keys may have moved. The known URL is used until there is a newer one.
            with contextlib.suppress(IssuerUnavailable):
                await self._discovery.run(None, self._discover)
        uri = (await self._known_metadata()).jwks_uri
        if not uri:
            raise IssuerUnavailable("jwks_uri_missing", detail="not in the metadata")
        try:
            return await get_object(self._http, uri, allow_http=allow_http, what="keys")
        except IssuerUnavailable:
            self._metadata_doubtful = True
            raise


def _endpoint_missing() -> IssuerUnavailable:
    return IssuerUnavailable("introspection_endpoint_missing", detail="not in the metadata")
