"""How clients authenticate: secret (RFC 6749 section 2.3.1) or private_key_jwt (RFC 7523), as in Keycloak."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

import jwt
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidRequestError,
    OAuth2Error,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatehouse_testbed.issuer.realm import Client
from gatehouse_testbed.issuer.tokens import Tokens

CLIENT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS = ["ES256", "ES384", "RS256", "PS256", "EdDSA"]
MAX_AGE_SECONDS = 60
SKEW_SECONDS = 15
MAX_ASSERTIONS = 10_000
MAX_TIME = 1e12
_UNCHECKED = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud"), False)


class ClientAuthenticator:
    """Authenticates the clients of a realm.

    Args:
        tokens: Tokens of the realm.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        protocol = f"{tokens.issuer}/protocol/openid-connect"
        self._audiences = {tokens.issuer, f"{protocol}/token", f"{protocol}/token/introspect"}
        self._used: dict[str, float] = {}  # when each id of an assertion may be forgotten

    def authenticate(self, request: Any, methods: list[str], endpoint: str) -> Client:
        """Authenticate the client of a request, with the errors of Keycloak.

        Raises:
            InvalidClientError: The client is unknown, disabled or not named, or its assertion is invalid.
            UnauthorizedClientError: The secret is wrong; InvalidClientError at the introspection endpoint.
        """
        form, claims = request.form, _unverified(request.form.get("client_assertion", ""))
        basic_id, secret = extract_basic_authorization(request.headers)
        wrong = InvalidClientError if endpoint == "introspection" else UnauthorizedClientError
        client_id = form.get("client_id") or claims.get("sub")
        if basic_id:
            client_id, secret = unquote_plus(basic_id), unquote_plus(secret or "")
            request.auth_method = "client_secret_basic"
            if form.get("client_id", client_id) != client_id:
                raise _refused(wrong)
        else:
            secret = form.get("client_secret")
            request.auth_method = "client_secret_post" if secret else "none"
        client = self._tokens.realm.clients.get(client_id) if isinstance(client_id, str) else None
        if client is None or not client.enabled:
            raise _refused(InvalidClientError)
        if client.public_client:
            request.auth_method = "none"
            if "none" not in methods:
                raise InvalidRequestError("Client not allowed.", status_code=403)
        elif client.uses_assertions:
            request.auth_method = "private_key_jwt"
            self._check_assertion(client, form)
        elif not secret or not client.check_client_secret(secret):
            raise _refused(wrong)
        return client

    def _check_assertion(self, client: Client, form: Mapping[str, str]) -> None:
        """Check the assertion of a client (RFC 7523 section 3); none is accepted twice.

        Raises:
            InvalidClientError: It is missing or invalid.
        """
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise _invalid("Parameter client_assertion_type is missing or unknown")
        if "client_assertion" not in form:
            raise _invalid("client_assertion parameter missing")
        assertion = form["client_assertion"]
        named = _unverified(assertion)
        if named and (named.get("iss"), named.get("sub")) != (client.client_id, client.client_id):
            raise _refused(InvalidClientError)
        try:
            claims = _verified(client, assertion)
        except (jwt.PyJWTError, ValueError, KeyError, TypeError, AttributeError):
            raise _invalid("Client authentication with signed JWT failed") from None
        self._check_audience(claims)
        self._check_times(claims)
        self._check_id(claims)

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if len(audiences) > 1:
            raise _invalid("Multiple audiences not allowed")
        if audiences not in [[known] for known in self._audiences]:
            raise _invalid("Invalid token audience")

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._tokens.clock()
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if not all(type(value) in {int, float} and abs(value) < MAX_TIME for value in times.values()):
            raise _invalid("Client authentication with signed JWT failed")
        if "exp" not in times:
            raise _invalid("Token exp claim is required")
        if now >= times["exp"] or now + SKEW_SECONDS < times.get("nbf", now):
            raise _invalid("Token is not active")
        if "iat" not in times and times["exp"] > now + MAX_AGE_SECONDS:
            raise _invalid("Token expiration is too far in the future and iat claim not present in token")
        if not now - MAX_AGE_SECONDS <= times.get("iat", now) <= now + SKEW_SECONDS:
            raise _invalid("Token was issued in the future, or too far in the past to be used now")

    def _check_id(self, claims: Mapping[str, Any]) -> None:
        jti, now = claims.get("jti"), self._tokens.clock()
        if not isinstance(jti, str) or not jti:
            raise _invalid("Token jti claim is required")
        if len(self._used) >= MAX_ASSERTIONS:
            self._used = {one: ends for one, ends in self._used.items() if ends > now}
        # Ids are removed when their assertions have expired, never to make space for others.
        if len(self._used) >= MAX_ASSERTIONS or self._used.get(jti, now) > now:
            raise _invalid("Token reuse detected")
        self._used[jti] = now + MAX_AGE_SECONDS + SKEW_SECONDS + 1


def _invalid(description: str) -> OAuth2Error:
    return InvalidClientError(description, status_code=400)


def _refused(kind: type[OAuth2Error]) -> OAuth2Error:
    return kind("Invalid client or Invalid client credentials", status_code=401)


def _unverified(assertion: str) -> dict[str, Any]:
    try:
        return jwt.decode(assertion, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError):
        return {}


def _verified(client: Client, assertion: str) -> dict[str, Any]:
    """Return the claims of an assertion that a key of the client has signed.

    Raises:
        KeyError: The client has no such key.
        jwt.PyJWTError: The signature is wrong, or its algorithm is not allowed.
    """
    header = jwt.get_unverified_header(assertion)
    algorithm = header["alg"]
    pinned = client.attributes.get("token.endpoint.auth.signing.alg", algorithm)
    if algorithm != pinned or algorithm not in ASSERTION_ALGORITHMS:
        raise jwt.InvalidAlgorithmError
    fitting = (
        key
        for key_id, name, key in _keys(client)
        if name in {None, algorithm} and header.get("kid", key_id) == key_id
    )
    key = next(fitting, None)
    if key is None:
        raise KeyError
    options: Any = _UNCHECKED
    return jwt.decode(assertion, key, [algorithm], options=options)


def _keys(client: Client) -> Iterator[tuple[str | None, str | None, Any]]:
    """Yield the id, the algorithm (None for any) and the value of each public key of a client."""
    attributes = client.attributes
    if attributes.get("use.jwks.string") == "true":
        for jwk in map(jwt.PyJWK, json.loads(attributes["jwks.string"])["keys"]):
            yield jwk.key_id, jwk.algorithm_name, jwk.key
        return
    der = base64.b64decode(attributes["jwt.credential.certificate"])
    key = x509.load_der_x509_certificate(der).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    derived = base64.urlsafe_b64encode(hashlib.sha256(info).digest()).rstrip(b"=").decode()
    yield attributes.get("jwt.credential.kid", derived), None, key
