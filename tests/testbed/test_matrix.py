"""What the policy promises to whom, and how the matrix marks what differs."""

from __future__ import annotations

import base64
import json
import os
from io import StringIO
from typing import Any

import grpc
import pytest

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.client.calls import Outcome
from gatehouse.rpc import AccessRule
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.files import realm_file
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.tour.callers import Caller, promised_scopes, tampered
from gatehouse_testbed.tour.matrix import Cell, Sample, matrix_view, promised, requests
from gatehouse_testbed.tracing.show import make_console

OK, DENIED, UNAUTHENTICATED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
NOW = 1_800_000_000.0
REALM = load_realm(realm_file(), os.environ)


def caller(*, scope: str = "", roles: tuple[str, ...] = (), good: bool = True, **claims: Any) -> Caller:
    found = {"scope": scope, "realm_access": {"roles": list(roles)}, **claims}
    return Caller("someone", "token", good=good, claims=found)


A_AND_B = frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("rule", "who", "code"),
    [
        (AccessRule(public=True), Caller("nobody"), OK),
        (AccessRule(authenticated=True), Caller("nobody"), UNAUTHENTICATED),
        (AccessRule(authenticated=True), caller(), OK),
        (AccessRule(authenticated=True), caller(good=False), UNAUTHENTICATED),
        (AccessRule(scopes=A_AND_B), caller(scope="a b c"), OK),
        (AccessRule(scopes=A_AND_B), caller(scope="a"), DENIED),
        (AccessRule(scopes=A_AND_B), caller(scope="a b", good=False), UNAUTHENTICATED),
        (AccessRule(roles=A_AND_B), caller(roles=("b",)), OK),
        (AccessRule(roles=A_AND_B), caller(roles=("c",)), DENIED),
        (AccessRule(authenticated=True, acr="mfa"), caller(acr="1"), UNAUTHENTICATED),
        (AccessRule(authenticated=True, acr="mfa"), caller(acr="mfa"), OK),
        (AccessRule(authenticated=True, max_age=60), caller(auth_time=NOW - 61), UNAUTHENTICATED),
        (AccessRule(authenticated=True, max_age=60), caller(auth_time=NOW - 59), OK),
        (AccessRule(authenticated=True, max_age=60), caller(), UNAUTHENTICATED),
    ],
)
def test_the_promise_follows_from_rule_and_claims(
    rule: AccessRule, who: Caller, code: grpc.StatusCode
) -> None:
    assert promised(rule, who, NOW) is code


def test_a_cell_that_differs_is_marked_and_named() -> None:
    rows = policy_rows()[:2]
    bob = Caller("bob")

    def cell(row: PolicyRow, code: grpc.StatusCode) -> Cell:
        return Cell(bob, row, DENIED, Outcome(code, "a text"))

    cells = [cell(rows[0], DENIED), cell(rows[1], OK)]
    out = StringIO()
    make_console(out).print(matrix_view(cells, [bob]))
    assert [line.split() for line in out.getvalue().splitlines() if "User" in line][1:] == [
        ["GetUser", "DENIED"],
        ["ListUsers", "!OK"],
    ]
    assert "ListUsers by bob: the policy promises PERMISSION_DENIED, and it was OK (a text)" in str(cells[1])


def test_a_code_of_another_kind_is_shown_by_its_name() -> None:
    cell = Cell(Caller("bob"), policy_rows()[0], OK, Outcome(grpc.StatusCode.UNIMPLEMENTED))
    out = StringIO()
    make_console(out).print(matrix_view([cell], [cell.caller]))
    assert "!UNIMPLEMENTED" in out.getvalue()


def test_every_request_of_the_matrix_is_one_that_its_rpc_knows() -> None:
    known = {row.method for row in policy_rows()}
    assert requests(Sample("id", "e@x.test", "E"), Caller("bob")).keys() <= known


def test_a_scope_with_a_gate_is_promised_to_holders_of_its_role() -> None:
    everything = {"read:users", "write:users", "delete:users", "admin", "manage:roles"}
    assert promised_scopes(REALM, "gatehouse-console", "alice") == everything
    assert promised_scopes(REALM, "gatehouse-console", "bob") == {"read:users"}
    assert promised_scopes(REALM, "gatehouse-console", "carol") == set()
    assert promised_scopes(REALM, "gatehouse-worker", None) == {"read:users", "write:users"}


@pytest.mark.parametrize(("client", "user"), [("nobody", None), ("gatehouse-console", "nobody")])
def test_who_is_not_in_the_realm_file_is_told_of(client: str, user: str | None) -> None:
    with pytest.raises(DemoError, match="nobody: is not in the realm file"):
        promised_scopes(REALM, client, user)


def test_a_tampered_token_says_more_under_the_old_signature() -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({}, {"sub": 1})]
    header, payload, signature = tampered(".".join([*parts, "sig"]), ["a", "b"]).split(".")
    assert (header, signature) == (parts[0], "sig")
    assert json.loads(base64.urlsafe_b64decode(payload + "==")) == {"sub": 1, "scope": "a b"}
