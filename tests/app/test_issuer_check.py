"""`gatehouse issuer-check`: tokens as providers issue them, and the mistakes of a first set-up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.oauth.provider_shapes import ENTRA_V1, ENTRA_V2, SHAPES, TENANT, Shape
from tests.support.cli import Cli, Done
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    METADATA,
    LoopbackIssuer,
    SigningKey,
    loopback_issuer,
)

CLIENT = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class IssuerCheck:
    """Runs `gatehouse issuer-check` with settings for one issuer.

    Attributes:
        issuer: The issuer.
        settings: Its settings.
    """

    def __init__(self, cli: Cli, issuer: LoopbackIssuer) -> None:
        self.issuer = issuer
        self.settings: dict[str, Any] = {"issuer": issuer.issuer, "audience": AUDIENCE, "mode": "jwt"}
        self._cli = cli

    async def run(self, token: str, *arguments: str, settings: Any = None) -> Done:
        """Run the command."""
        entries = [self.settings] if settings is None else settings
        command = ("issuer-check", *arguments)
        return await asyncio.to_thread(
            lambda: self._cli(*command, given=token, GATEHOUSE_ISSUERS=json.dumps(entries))
        )

    async def on_terminal(self, *arguments: str) -> str:
        """Run the command without input on a terminal, and return what it shows."""
        return await asyncio.to_thread(self._cli.on_terminal, "issuer-check", *arguments)

    async def __call__(self, token: str, *arguments: str, settings: Any = None) -> Found:
        """Run the command and return what it found."""
        done = await self.run(token, *arguments, "--format", "json", settings=settings)
        assert done.err == ""
        assert token not in done.out
        found = Found(json.loads(done.out))
        assert done.code == (0 if found.accepted else 1)
        return found


class Found:
    """What the command found.

    Attributes:
        accepted: Whether the token is accepted.
        caller: What it was read as.
        checks: Status and detail of each check.
        problems: What is wrong with the token.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.accepted: bool = answer["accepted"]
        self.caller: Any = answer["caller"]
        self.checks = {row["check"]: (row["status"], row["detail"]) for row in answer["checks"]}
        rows = [row for row in answer["checks"] if row["check"] == "token"]
        self.problems = [row["detail"] for row in rows if row["status"] == "failed"]

    @property
    def problem(self) -> str:
        """The only problem of the token."""
        (problem,) = self.problems
        return str(problem)


@pytest.fixture
async def check(cli: Cli) -> AsyncIterator[IssuerCheck]:
    async with loopback_issuer() as issuer:
        yield IssuerCheck(cli, issuer)


def sign(issuer: LoopbackIssuer, shape: Shape, claims: Any = None, **changes: Any) -> str:
    """Return a valid token of a provider with other `claims`, or with `changes`."""
    now = int(time.time())
    times = {"iss": issuer.issuer, "iat": now, "exp": now + 300}
    payload = times | dict(shape.token if claims is None else claims) | changes
    return issuer.keys[0].sign(payload, {"alg": "ES256", "kid": "key-1", **shape.header})


# Tokens of the presets.


async def test_party_that_acts_for_the_subject_is_shown(check: IssuerCheck) -> None:
    found = await check(check.issuer.sign(act={"sub": "support"}))
    assert found.caller["actor_issuer"] == check.issuer.issuer
    assert found.caller["actor_subject"] == "support"


@every_shape
async def test_token_of_each_preset_is_understood(shape: Shape, check: IssuerCheck) -> None:
    check.settings |= {"provider": shape.provider, **shape.settings}
    found = await check(sign(check.issuer, shape))

    assert found.checks["token"] == ("ok", "accepted")
    assert found.caller["subject"] == shape.token["sub"]
    assert found.caller["verified_by"] == "signature (ES256, key key-1)"
    for name, value in shape.caller.items():
        assert found.caller[name] == (value if isinstance(value, str) else sorted(value))


@every_shape
async def test_other_tokens_of_each_preset_are_explained(shape: Shape, check: IssuerCheck) -> None:
    check.settings |= {"provider": shape.provider, **shape.settings}
    for claims in shape.others:
        found = await check(sign(check.issuer, shape, claims))
        assert found.problems[0].startswith("TOKEN_TYPE_MISMATCH: it ")


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.response is not None], ids=str)
async def test_introspected_token_of_each_preset_is_understood(shape: Shape, check: IssuerCheck) -> None:
    check.settings |= {"provider": shape.provider, "mode": "hybrid", **CLIENT, **shape.settings}
    token = sign(check.issuer, shape)
    response = {"iss": check.issuer.issuer, "exp": int(time.time()) + 300, **(shape.response or {})}
    check.issuer.activate(token, response)
    found = await check(token)

    assert found.accepted
    assert found.caller["roles"] == sorted(shape.caller["roles"])
    assert found.caller["verified_by"] == "signature (ES256, key key-1), then introspection"


# An RFC 9068 token is accepted with every preset, and `google` is refused for its missing scopes only.
@pytest.mark.parametrize("shape", [s for s in SHAPES if s.provider not in {"keycloak", "generic"}], ids=str)
async def test_token_of_another_preset_names_that_preset(shape: Shape, check: IssuerCheck) -> None:
    check.issuer.base_path = "/oauth2"
    for name in (METADATA, "jwks"):
        check.issuer.answer(name, lambda request: serve(check.issuer, request))
    check.settings["issuer"] = check.issuer.issuer
    found = await check(sign(check.issuer, shape))

    problem = found.problems[-1]
    assert problem.startswith("TOKEN_TYPE_MISMATCH: it has no mark of an access token of provider keycloak")
    assert shape.provider in problem.partition("; set `provider` to ")[2].split()
    assert not found.accepted


def serve(issuer: LoopbackIssuer, request: Request) -> Reply:
    return Reply(issuer.jwks() if request.path.endswith("jwks") else issuer.metadata())


async def test_provider_with_a_known_issuer_is_the_only_suggestion(check: IssuerCheck) -> None:
    check.settings["provider"] = "okta"
    found = await check(check.issuer.sign())

    assert found.problem.endswith("; set `provider` to keycloak if it is that")


# Settings.


async def test_issuer_is_tried_without_settings(check: IssuerCheck) -> None:
    found = await check(check.issuer.sign(), "--issuer", check.issuer.issuer, settings=[])

    assert found.problem.startswith(
        f"AUDIENCE_MISMATCH: the token's audience (`aud`) is {AUDIENCE}, and `audience` is not set; "
        f"set `audience` to {AUDIENCE} if that is this API"
    )
    assert found.caller["scopes"] == ["read:users"]
    options = ("--issuer", check.issuer.issuer, "--preset", "keycloak", "--audience", AUDIENCE)
    assert (await check(check.issuer.sign(), *options, settings=[])).accepted


async def test_client_that_introspects_is_tried_without_settings(check: IssuerCheck, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CLIENT_SECRET)
    options = ["--issuer", check.issuer.issuer, "--audience", AUDIENCE, "--client-id", CLIENT_ID]
    options += ["--client-secret-file", str(secret)]
    found = await check(check.issuer.grant(), *options, settings=[])
    assert found.caller["verified_by"].endswith(", then introspection")

    check.issuer.activate("canary")
    found = await check("canary", *options, "--mode", "introspection", settings=[])
    assert found.caller["verified_by"] == "introspection"


async def test_entry_is_found_by_the_token_by_its_url_and_by_its_place(check: IssuerCheck) -> None:
    other = {"issuer": "http://127.0.0.1:1/realms/other", "audience": "other", "mode": "jwt"}
    entries = [other, check.settings]
    assert (await check(check.issuer.sign(), settings=entries)).accepted
    assert (await check(check.issuer.sign(), "--issuer", "issuers[1]", settings=entries)).accepted
    found = await check(check.issuer.sign(), "--issuer", other["issuer"], settings=entries)
    assert found.checks["issuer: discovery"][0] == "failed"
    assert "correct what failed above" in found.problem or "ISSUER_UNKNOWN" in found.problem


async def test_token_of_no_entry_names_the_entries(check: IssuerCheck) -> None:
    other = {"issuer": "http://127.0.0.1:1/realms/other", "audience": "other", "mode": "jwt"}
    entries = [other, check.settings]
    found = await check(check.issuer.sign(iss="https://else.test"), settings=entries)
    assert f"(`iss`) is https://else.test, and GATEHOUSE_ISSUERS has {other['issuer']}, " in found.problem
    assert "exactly one entry" in (await check("canary", settings=entries)).problem
    assert "not an access token" in (await check("\u00fc", settings=entries)).problem
    # The entry that is probably meant is checked.
    found = await check(check.issuer.sign(iss=f"{check.issuer.issuer}/"), settings=entries)
    assert found.problem.startswith("ISSUER_UNKNOWN: ")
    assert found.caller is not None


async def test_audience_in_another_claim_is_shown(check: IssuerCheck) -> None:
    check.settings["audience_claim"] = "/for/api"
    found = await check(check.issuer.sign(aud=..., **{"for": {"api": AUDIENCE}}))

    assert found.caller["audience"] == [AUDIENCE]


async def test_option_overrides_a_setting(check: IssuerCheck) -> None:
    assert not (await check(check.issuer.sign(), "--audience", "other")).accepted


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([], [], "no issuer; use --issuer URL, or set GATEHOUSE_ISSUERS"),
        (["--issuer", "http://id.test"], [], "settings of the issuer: issuer must be an https URL"),
        (
            ["--issuer", "https://id.test", "--mode", "hybrid"],
            [],
            "settings of the issuer: mode hybrid needs client_id",
        ),
        (["--issuer", "https://id.test", "--preset", "other"], [], "'--preset' / '--provider'"),
        (["canary"], [], "unexpected argument; see `"),
    ],
    ids=str,
)
async def test_invalid_options_are_one_line(
    check: IssuerCheck, arguments: list[str], settings: Any, message: str
) -> None:
    done = await check.run("token", *arguments, settings=settings)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert "canary" not in done.err


# The token itself.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Bearer canary", "the input has white space; pass only the token, in one line, without `Bearer`"),
        ("canary\ncanary", "the input has white space"),
        ("canary.a.b.c.d", "the token is encrypted (JWE), so only its issuer can read it"),
        ("canary\u00fc", "the input is not an access token"),
        ("canary" * 2000, "the input is not an access token: too long"),
        ("canary.b.c", "TOKEN_MALFORMED: it has the parts of a JWT, but they are not JSON in base64url"),
    ],
    ids=["scheme", "two lines", "encrypted", "other characters", "too long", "damaged"],
)
async def test_input_that_is_no_token_is_explained(check: IssuerCheck, text: str, problem: str) -> None:
    found = await check(text)

    assert found.problem.startswith(problem)
    assert found.caller is None


async def test_missing_input_is_one_line(check: IssuerCheck) -> None:
    done = await check.run(" \n")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gatehouse: no token; pass it on standard input")
    assert "no token" in await check.on_terminal("--issuer", "https://id.test")


async def test_opaque_token_needs_mode_introspection(check: IssuerCheck) -> None:
    check.issuer.activate("canary")
    found = await check("canary")
    text = "TOKEN_MALFORMED: it is opaque, and mode jwt needs a signed token; set `mode` to introspection"
    assert found.problem == f"{text}, with `client_id` and `client_secret_file`"

    check.settings |= {"mode": "hybrid", **CLIENT}
    found = await check("canary")
    assert found.problem == text.replace("jwt", "hybrid")
    assert found.caller["verified_by"] == "introspection"

    check.settings |= {"provider": "auth0", "mode": "jwt"}
    assert (
        "; let the client request a signed token for this API; a client of Auth0 gets"
        in (await check("canary")).problem
    )


async def test_audience_of_an_opaque_token_is_named(check: IssuerCheck) -> None:
    check.settings |= {"mode": "introspection", **CLIENT}
    check.issuer.activate("canary", aud="other-api")
    found = await check("canary")

    assert "the token's audience (`aud`) is other-api, and `audience` is gatehouse-api" in found.problem


async def test_missing_introspection_endpoint_names_the_mode(check: IssuerCheck) -> None:
    check.settings |= {"mode": "hybrid", **CLIENT}
    document = check.issuer.metadata()
    del document["introspection_endpoint"]
    check.issuer.answer(METADATA, Reply(document))
    found = await check(check.issuer.sign())

    status, detail = found.checks["issuer: introspection"]
    assert (status, found.accepted) == ("failed", False)
    assert detail.endswith("; set `mode` to jwt, or `introspection_endpoint` if the issuer has one")
    assert found.caller["verified_by"] == "signature (ES256, key key-1)"


async def test_token_that_the_issuer_calls_inactive_is_still_read(check: IssuerCheck) -> None:
    check.settings |= {"mode": "hybrid", **CLIENT}
    found = await check(check.issuer.sign())

    assert found.problem.startswith("TOKEN_INACTIVE: the issuer says that it is not active")
    assert found.caller["subject"]


async def test_issuer_that_cannot_be_reached_is_the_only_problem(check: IssuerCheck) -> None:
    token = check.issuer.sign()
    await check.issuer.stop()
    found = await check(token)

    assert found.checks["issuer: discovery"][0] == "failed"
    assert "it cannot be verified (keys_unavailable); correct what failed above first" in found.problem


def early(seconds: float) -> Callable[[LoopbackIssuer], str]:
    return lambda issuer: issuer.sign(nbf=int(time.time()) + seconds, exp=int(time.time()) + 3 * seconds)


@pytest.mark.parametrize(
    ("make", "reason", "fix", "readable"),
    [
        (
            lambda issuer: issuer.sign(exp=int(time.time()) - 7500, iat=...),
            "TOKEN_EXPIRED: it expired 2 hours ago, at 20",
            "obtain a new one, or, if it is new, synchronize the clocks (NTP)",
            True,
        ),
        (
            early(600),
            "TOKEN_NOT_YET_VALID: its `nbf` is 9 minutes in the future, more than `leeway_seconds` (60)",
            "synchronize the clocks of this machine and of the issuer (NTP)",
            True,
        ),
        (
            lambda issuer: issuer.sign(aud=["account"]),
            "AUDIENCE_MISMATCH: the token's audience (`aud`) is account, and `audience` is gatehouse-api; ",
            "an audience mapper in Keycloak adds an audience",
            True,
        ),
        (
            lambda issuer: issuer.sign(aud=...),
            "AUDIENCE_MISMATCH: it has no audience (`aud`); request a token for this API",
            "an audience mapper in Keycloak adds an audience",
            False,
        ),
        (
            lambda issuer: issuer.sign(aud=..., client_id="app"),
            "AUDIENCE_MISMATCH: it has no `aud`; request a token for this API",
            "set `audience_claim` to client_id and `audience` to app",
            True,
        ),
        (
            lambda issuer: issuer.sign(typ="ID", aud="console"),
            "TOKEN_TYPE_MISMATCH: it is an ID token",
            "",
            False,
        ),
        (
            lambda issuer: issuer.sign(typ="Refresh"),
            "TOKEN_TYPE_MISMATCH: it is a refresh token; use the access token",
            "",
            False,
        ),
        (
            lambda issuer: SigningKey.make("key-1").sign(issuer.claims()),
            "SIGNATURE_MISMATCH: its signature does not match the key",
            "",
            False,
        ),
        (
            lambda issuer: SigningKey.make("key-9").sign(issuer.claims()),
            "KEY_UNKNOWN: its key key-9 is not in the key set of the issuer, http://127.0.0.1:",
            "check that the token is from this issuer and that `jwks_uri`, if set, is its key set",
            False,
        ),
        (
            lambda issuer: issuer.keys[0].sign(issuer.claims(), {"alg": "HS256", "kid": "key-1"}),
            "ALGORITHM_NOT_ALLOWED: it is signed with HS256, which is not an asymmetric algorithm",
            "let the issuer sign with ES256 or RS256",
            False,
        ),
        (
            lambda issuer: issuer.sign(iss=f"{issuer.issuer}/"),
            "ISSUER_UNKNOWN: its issuer (`iss`) is http://127.0.0.1:",
            "set `issuer` to exactly the `iss` if this is the issuer that you trust",
            True,
        ),
        (lambda issuer: issuer.sign(iss=...), "ISSUER_UNKNOWN: it has no `iss`", "", False),
        (lambda issuer: issuer.sign(sub=...), "SUBJECT_MISSING: it has no `sub`", "", False),
        (lambda issuer: issuer.sign(act={}), "ACTOR_MALFORMED: its `act` ", "", False),
        (lambda issuer: issuer.sign(exp="9"), "CLAIM_MALFORMED: `exp`, ", "", False),
        (lambda issuer: issuer.sign(cnf={"jkt": "a"}), "PROOF_OF_POSSESSION_MISSING: ", "", False),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else None,
)
async def test_refused_token_is_explained(
    check: IssuerCheck, make: Callable[[LoopbackIssuer], str], reason: str, fix: str, readable: bool
) -> None:
    found = await check(make(check.issuer))

    assert found.problems[0].startswith(reason)
    assert fix in found.problems[0]
    assert len(found.problems) == 1
    assert (found.caller is not None) == readable


async def test_algorithm_that_is_not_accepted_is_named(check: IssuerCheck) -> None:
    check.issuer.rotate("ES384")
    found = await check(check.issuer.sign())

    assert found.problem == (
        "ALGORITHM_NOT_ALLOWED: it is signed with ES384, and `algorithms` has ES256, RS256; "
        "set `algorithms` to ES384"
    )


async def test_all_problems_are_found_at_once(check: IssuerCheck) -> None:
    check.issuer.rotate("ES384")
    found = await check(check.issuer.sign(aud="other", exp=int(time.time()) - 100, iat=..., typ="x"))

    reasons = [problem.partition(":")[0] for problem in found.problems]
    assert reasons == ["ALGORITHM_NOT_ALLOWED", "AUDIENCE_MISMATCH", "TOKEN_EXPIRED", "TOKEN_TYPE_MISMATCH"]


# Rights in other claims.


@pytest.mark.parametrize(
    ("settings", "claims", "check_name", "problem"),
    [
        (
            {},
            {"realm_access": ..., "https://a.test/roles": ["admin"]},
            "roles",
            "none found; they may be in the claim `https://a.test/roles[]`: set `role_claims` to https:",
        ),
        ({}, {"realm_access": ..., "groups": ["a"]}, "roles", "set `role_claims` to groups[]"),
        ({}, {"realm_access": ..., "app": {"a/roles": {"a": 1}}}, "roles", "to /app/a~1roles{}"),
        ({}, {"scope": ..., "scp": ["read:users"]}, "scopes", "set `scope_claims` to scp[]"),
        ({}, {"scope": ["read:users"]}, "scopes", "set `scope_claims` to scope[]"),
        ({}, {"scope": "api/read:users"}, "scopes", "set `scope_prefix` to api/"),
        ({"scope_prefix": "x"}, {}, "scopes", "none begins with `scope_prefix` (x); correct it"),
        ({}, {"scope": "openid"}, "scopes", "no access rule requires one of them"),
        ({}, {"azp": ..., "cid": "c"}, "client id", "none found; it is in the claim `cid`"),
    ],
    ids=str,
)
async def test_rights_in_another_claim_are_a_warning(
    check: IssuerCheck, settings: dict[str, Any], claims: dict[str, Any], check_name: str, problem: str
) -> None:
    check.settings |= settings
    found = await check(check.issuer.sign(**claims))

    assert found.accepted
    status, detail = found.checks[f"token: {check_name}"]
    assert status == "warning"
    assert problem in detail


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ({}, "user"),
        ({"sub": "gatehouse-console"}, "client"),
        ({"sub": "gatehouse-console@clients"}, "client"),
        ({"preferred_username": "service-account-worker"}, "client"),
        ({"idtyp": "app"}, "client"),
    ],
    ids=str,
)
async def test_tokens_of_users_and_clients_are_distinguished(
    check: IssuerCheck, claims: dict[str, Any], kind: str
) -> None:
    assert (await check(check.issuer.sign(**claims))).caller["subject_kind"] == kind


# Entra.

V2 = "https://login.microsoftonline.com/{tenantid}/v2.0"


@pytest.fixture
def entra(check: IssuerCheck) -> IssuerCheck:
    document = {"issuer": V2, "jwks_uri": check.issuer.url("jwks")}
    check.issuer.answer("organizations", Reply(document))
    check.settings |= {
        "provider": "entra",
        "issuer": V2,
        "discovery_url": check.issuer.url("organizations"),
        "tenants": [TENANT],
    }
    return check


async def test_token_of_an_accepted_tenant_is_understood(entra: IssuerCheck) -> None:
    found = await entra(sign(entra.issuer, ENTRA_V2, iss=V2.replace("{tenantid}", TENANT)))

    assert found.caller["issuer"] == V2.replace("{tenantid}", TENANT)
    assert found.caller["tenant"] == TENANT


async def test_other_tenant_names_the_setting(entra: IssuerCheck) -> None:
    found = await entra(sign(entra.issuer, ENTRA_V2, iss=V2.replace("{tenantid}", "other"), tid="other"))

    assert found.problem == (
        f"ISSUER_UNKNOWN: its tenant (`tid`) is other, and `tenants` has {TENANT}; "
        "add it to `tenants` if you trust it"
    )
    assert found.caller["tenant"] == "other"


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        (
            {"tid": "other"},
            "but for its tenant (`tid`) it would be https://login.microsoftonline.com/other/v2.0",
        ),
        ({"tid": None}, "it has no claim `tid` with its tenant"),
    ],
)
async def test_issuer_of_another_tenant_than_the_token_says_is_explained(
    entra: IssuerCheck, claims: dict[str, Any], problem: str
) -> None:
    found = await entra(sign(entra.issuer, ENTRA_V2, iss=V2.replace("{tenantid}", TENANT), **claims))

    assert problem in found.problem
    assert found.caller is None


async def test_versions_of_entra_are_distinguished(entra: IssuerCheck) -> None:
    old, new = f"https://sts.windows.net/{TENANT}/", V2.replace("{tenantid}", TENANT)
    for issuer, shape, iss, fix in (
        (new, ENTRA_V1, old, "version 1.0 of Entra; set `requestedAccessTokenVersion` to 2"),
        (old, ENTRA_V2, new, f"version 2.0 of Entra; set `issuer` to {new}, remove `discovery_url`"),
    ):
        document = {"issuer": issuer, "jwks_uri": entra.issuer.url("jwks")}
        entra.issuer.answer("organizations", Reply(document))
        entra.settings |= {"issuer": issuer, "tenants": []}
        found = await entra(sign(entra.issuer, shape, iss=iss))
        assert fix in found.problem
        assert found.caller["issuer"] == iss


async def test_token_for_microsoft_graph_is_recognized(entra: IssuerCheck) -> None:
    issuer = V2.replace("{tenantid}", TENANT)
    header = {"alg": "ES256", "kid": "key-1", "nonce": "n"}
    claims = {"iss": issuer, "exp": int(time.time()) + 300, **ENTRA_V2.token}
    found = await entra(SigningKey.make("key-1").sign(claims, header))

    assert "as tokens of Entra for Microsoft Graph do" in found.problem


# Output.


async def test_table_has_no_control_characters_and_no_token(check: IssuerCheck) -> None:
    token = check.issuer.sign(scope="a\u001b[31m b\u202e" + "c" * 300, realm_access={"roles": []})
    done = await check.run(token)

    assert (done.code, done.err) == (0, "")
    assert token not in done.out
    assert all(char.isprintable() for line in done.lines for char in line)
    assert "a\\x1b[31m" in done.out
    assert "CALLER" in done.out
    done = await check.run(check.issuer.sign(aud="other"))
    assert (done.code, "CALLER, ONCE THAT IS FIXED" in done.out) == (1, True)
