"""What must hold for every input: only documented errors, which do not contain it, and round trips."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import traceback
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import protovalidate
from sqlalchemy.dialects import postgresql

from gatehouse.client.requests import find_method, parse_requests
from gatehouse.domain import InvalidArgument
from gatehouse.oauth import (
    InvalidToken,
    IssuerUnavailable,
    MultiIssuerVerifier,
    OAuthError,
    PresentedToken,
    Principal,
    Refusal,
    VerifiedClaims,
    discover,
    parse_authorization,
)
from gatehouse.oauth._claims import ClaimsVerifier
from gatehouse.oauth._json import strict_object
from gatehouse.oauth._jwks import read_keys
from gatehouse.oauth.presented_token import decode_base64url
from gatehouse.rpc._metadata import read_metadata
from gatehouse.settings import ConfigurationError
from gatehouse.storage.paging import PageTokenError, read_page_token, write_page_token
from gatehouse.users.filter import parse_filter
from gatehouse.users.repository import parse_order
from gatehouse.users.service import updated_fields
from gatehouse.users.tables import users
from gatehouse.users.v1 import users_pb2

# <part console>
from gatehouse_console.calls.draft import Draft, read_draft
from gatehouse_console.calls.nodes import check

# </part console>
from gatehouse_testbed.issuer.realm import Realm, RealmError, load_realm
from tests.fuzz.inputs import CANARY
from tests.fuzz.samples import CLAIMS, CONFIGS, ISSUER, JWKS, KEY, NOW, SECRET
from tests.support.oauth_issuers import b64

T = TypeVar("T")
_CONSTANT = re.compile(r"[a-z0-9_]+")
UPDATE_USER = find_method(users_pb2.DESCRIPTOR.services_by_name["UserService"], "UpdateUser")
_VALIDATOR = protovalidate.Validator()
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy has no types here


@contextmanager
def refusing(*errors: type[Exception], canary: str = CANARY) -> Iterator[None]:
    """Allow `errors` only, and only if neither they nor what they carry contain the canary."""
    try:
        yield
    except errors as error:
        check_error(error, canary)


def check_error(error: Exception, canary: str) -> None:
    assert canary not in "".join(traceback.format_exception(error)), "the error contains the input"
    assert "\n" not in str(error), "the error has several lines"
    if isinstance(error, OAuthError):
        assert _CONSTANT.fullmatch(str(error)), "the reason is not a constant"


def run(coroutine: Awaitable[T]) -> T:
    """Run a coroutine that waits for nothing but the loop."""

    async def main() -> T:
        async with asyncio.timeout(10):
            return await coroutine

    return asyncio.run(main())


def text_of(raw: bytes) -> str:
    """Decode as gRPC decodes metadata."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def check_token(raw: bytes) -> None:
    text = text_of(raw)
    with refusing(InvalidToken):
        token = PresentedToken(text)
        assert (token.value, repr(token)) == (text, "PresentedToken(***)")
        if token.jws is not None:
            header, claims, signature = text.split(".")
            assert token.jws.signing_input == f"{header}.{claims}".encode()
            for part, value in ((header, token.jws.header), (claims, token.jws.claims)):
                assert json.loads(decode_base64url(part) or b"") == value
            assert token.jws.signature is None or b64(token.jws.signature) == signature


def check_authorization(raw: bytes) -> None:
    """Each line is an entry; one that starts with `=` is binary."""
    entries = [
        ("authorization", line[1:] if line[:1] == b"=" else text_of(line)) for line in raw.split(b"\n")
    ]
    with refusing(Refusal):
        kept = read_metadata(entries, 16 * 1024)
        assert kept.too_large or len(kept.authorization) == min(2, len(entries))
        token = parse_authorization(kept.authorization)
        assert len(entries) == 1
        entry = entries[0][1]
        assert isinstance(entry, str)
        assert entry.split(" ")[0].lower() == "bearer"
        assert entry.endswith(f" {token.value}")


def check_principal(principal: Principal) -> None:
    """Check what the rest of the code relies on."""
    assert principal.issuer == ISSUER
    assert principal.subject.isprintable()
    assert 0 < len(principal.subject) <= 255
    assert principal.expires_at > NOW
    names = (principal.scopes, principal.roles, principal.permissions, *principal.client_roles.values())
    for name in (principal.acr, principal.client_id, *(one for some in names for one in some)):
        assert isinstance(name, str)
        name.encode()  # for PostgreSQL and log lines
    assert all(role in some for some in names for role in some)
    assert principal.claims.keys() <= {"extra", "email"}
    assert principal.size() > 0


def check_claims(raw: bytes) -> None:
    claims = strict_object(raw)
    for config in CONFIGS if claims is not None else ():
        with refusing(InvalidToken):
            verifier = ClaimsVerifier(config, lambda: NOW)
            check_principal(verifier.principal(VerifiedClaims(claims or {})))


async def verify(mode: str, token: PresentedToken, transport: httpx.MockTransport) -> None:
    """Verify a token with an issuer that is reached through `transport`."""
    config = CONFIGS[0].model_copy(update={"mode": mode})
    async with httpx.AsyncClient(transport=transport) as http:
        verifier = MultiIssuerVerifier([config], http_for=lambda _: http, clock=lambda: NOW)
        try:
            check_principal(await verifier.verify(token))
        finally:
            await verifier.aclose()


def check_jwt(raw: bytes) -> None:
    """The input is the header; the signature over it and valid claims is always genuine."""
    keys = json.dumps(JWKS).encode()
    with refusing(InvalidToken):
        token = PresentedToken(KEY.sign(CLAIMS, raw))
        run(verify("jwt", token, answering(b"200 application/json\n" + keys)))
        header = json.loads(raw)
        assert header["alg"] == "ES256"
        assert {"crit", "b64"}.isdisjoint(header)


KEYS = {"email": users.c.email, "create_time": users.c.create_time}


def check_page_token(raw: bytes) -> None:
    text = text_of(raw)
    for column in KEYS.values():
        with refusing(PageTokenError):
            key = read_page_token("query", text, (column, users.c.user_id))
            if key is None:
                assert text == ""
                continue
            again = write_page_token("query", key)
            assert read_page_token("query", again, (column, users.c.user_id)) == key
            assert all("\0" not in value for value in key if isinstance(value, str))


def valid(request: users_pb2.ListUsersRequest) -> bool:
    """Return whether the constraints of the proto admit a request."""
    return not _VALIDATOR.collect_violations(request)


def check_filter(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    if not valid(users_pb2.ListUsersRequest(filter=text)):
        return
    with refusing(InvalidArgument):
        conditions = parse_filter(text)
        assert len(conditions) <= 10
        for condition in conditions:
            compiled = condition.compile(dialect=_DIALECT)
            assert CANARY.lower() not in str(compiled).lower(), "a value is part of the SQL text"
            assert all("\0" not in value for value in compiled.params.values() if isinstance(value, str))


def check_order(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    if valid(users_pb2.ListUsersRequest(order_by=text)):
        with refusing(InvalidArgument):
            name, direction = parse_order(text)
            assert name in {"create_time", "email", "display_name"}
            assert text.split() in ([name, direction], [name], []) or direction == ""


def check_mask(raw: bytes) -> None:
    paths = raw.decode("utf-8", "replace").split(",")
    for user in (users_pb2.User(), users_pb2.User(email="a@example.com", display_name="A", state=1)):
        request = users_pb2.UpdateUserRequest(user=user)
        request.update_mask.paths.extend(paths)
        with refusing(InvalidArgument):
            found = updated_fields(request)
            assert set(found) <= {"email", "display_name", "state"}
            assert len(set(found)) == len(found)


# <part console>
def check_call_form(raw: bytes) -> None:
    """A request in JSON is the same after the form of the console, or the form says why it is not one."""
    data = raw.decode("utf-8", "replace")
    draft = Draft(UPDATE_USER, None, data)
    draft.show_form()
    if draft.root is None:
        assert "\n" not in draft.problems["request"]
        return
    sent = {node.name: node.text for node in draft.root.walk() if node.is_set and node.shape.kind != "list"}
    returned = read_draft(UPDATE_USER, sent)
    assert returned.root is not None
    try:
        expected = parse_requests(UPDATE_USER, data)
    except ConfigurationError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what the parser may raise
        return
    if check(returned.root):
        assert parse_requests(UPDATE_USER, returned.as_json()) == expected


# </part console>
def check_realm(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, refusing(RealmError, canary=SECRET):
        path = Path(name) / "realm.json"
        path.write_bytes(raw)
        realm = load_realm(path, {"SET": 'a"b'})
        use_realm(realm)


def use_realm(realm: Realm) -> None:
    """Call what the issuer calls."""
    for user in realm.users.values():
        assert realm.roles_of(user) >= user.realm_roles
        assert isinstance(user.password, str)
        assert user.service_account_client_id or realm.user_named(user.username) is not None
    for client in realm.clients.values():
        realm.service_account(client.client_id)
        assert not client.check_client_secret("another")
        assert not client.check_redirect_uri("http://127.0.0.1:1/x/y/z")
        assert not client.check_logout_uri("https://another.test/")


def answering(raw: bytes) -> httpx.MockTransport:
    """Return an HTTP server: the first line is `STATUS CONTENT-TYPE [RETRY-AFTER]`, the rest is the body."""
    head, _, body = raw.partition(b"\n")
    status, kind, after, *_ = [*head.decode("latin-1").split(" "), "", "", ""]
    code = int(status) if re.fullmatch("[2345][0-9][0-9]", status) else 200

    def answer(_: httpx.Request) -> httpx.Response:
        headers = {"content-type": kind.encode("latin-1"), "retry-after": after.encode("latin-1")}
        return httpx.Response(code, headers=headers, stream=httpx.ByteStream(body))

    return httpx.MockTransport(answer)


def check_discovery(raw: bytes) -> None:
    async def discovered() -> None:
        async with httpx.AsyncClient(transport=answering(raw)) as http:
            metadata = await discover(http, ISSUER)
        assert metadata.issuer == ISSUER
        for url in (metadata.jwks_uri, metadata.token_endpoint, metadata.introspection_endpoint):
            assert url == "" or url.startswith(
                ("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")
            )
            httpx.URL(url)

    with refusing(IssuerUnavailable):
        run(discovered())


def check_keys(raw: bytes) -> None:
    document = strict_object(raw)
    if document is not None:
        with refusing(IssuerUnavailable):
            keys = read_keys(document, ("ES256", "RS256"))
            assert {algorithm for _, algorithm in keys} <= {"ES256", "RS256"}
            assert len(keys) <= 3 * 64


def check_introspection(raw: bytes) -> None:
    with refusing(InvalidToken, IssuerUnavailable):
        run(verify("introspection", PresentedToken("opaque"), answering(raw)))
