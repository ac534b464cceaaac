"""The parts of the tour: expected codes, the matrix, tokens, metrics."""

from __future__ import annotations

import base64
import json
import os
from io import StringIO
from typing import Any

import grpc
import httpx
import pytest

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.client.calls import Outcome
from gatehouse.rpc import AccessRule
from gatehouse_testbed.console import make_console
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import realm_file
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.stack_ports import Ports
from gatehouse_testbed.tour.callers import Caller, realm_scopes, tampered
from gatehouse_testbed.tour.matrix import (
    EMPTY,
    Cell,
    SampleUser,
    expected_code,
    matrix_view,
    rpcs_that_nobody_may_call,
    sample_requests,
)
from gatehouse_testbed.tour.metrics import CALLS, DENIALS, VERIFICATIONS, fetch_metrics, parse_metrics
from tests.support.realm import token_scopes
from tests.support.scopes import EVERY_SCOPE

OK, DENIED, UNAUTHENTICATED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
NOW = 1_800_000_000.0
REALM = load_realm(realm_file(), os.environ)


def valid_caller(
    *, scope: str = "", roles: tuple[str, ...] = (), valid: bool = True, **claims: Any
) -> Caller:
    found = {"scope": scope, "realm_access": {"roles": list(roles)}, **claims}
    return Caller("someone", "token", valid=valid, claims=found)


A_AND_B = frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("rule", "caller", "code"),
    [
        (AccessRule(public=True), Caller("nobody"), OK),
        (AccessRule(authenticated=True), Caller("nobody"), UNAUTHENTICATED),
        (AccessRule(authenticated=True), valid_caller(), OK),
        (AccessRule(authenticated=True), valid_caller(valid=False), UNAUTHENTICATED),
        (AccessRule(scopes=A_AND_B), valid_caller(scope="a b c"), OK),
        (AccessRule(scopes=A_AND_B), valid_caller(scope="a"), DENIED),
        (AccessRule(scopes=A_AND_B), valid_caller(scope="a b", valid=False), UNAUTHENTICATED),
        (AccessRule(roles=A_AND_B), valid_caller(roles=("b",)), OK),
        (AccessRule(roles=A_AND_B), valid_caller(roles=("c",)), DENIED),
        (AccessRule(authenticated=True, acr="mfa"), valid_caller(acr="1"), UNAUTHENTICATED),
        (AccessRule(authenticated=True, acr="mfa"), valid_caller(acr="mfa"), OK),
        (AccessRule(authenticated=True, max_age=60), valid_caller(auth_time=NOW - 61), UNAUTHENTICATED),
        (AccessRule(authenticated=True, max_age=60), valid_caller(auth_time=NOW - 59), OK),
        (AccessRule(authenticated=True, max_age=60), valid_caller(), UNAUTHENTICATED),
    ],
)
def test_expected_code_follows_from_rule_and_claims(
    rule: AccessRule, caller: Caller, code: grpc.StatusCode
) -> None:
    assert expected_code(rule, caller, NOW) is code


def test_cell_with_a_wrong_code_is_marked_and_named() -> None:
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
    assert "ListUsers by bob: expected PERMISSION_DENIED, got OK (a text)" in str(cells[1])


def test_allowed_call_with_an_empty_request_does_not_widen_its_column() -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    cell = Cell(Caller("bob"), policy_rows()[0], code, Outcome(code, "a text"))
    out = StringIO()
    make_console(out).print(matrix_view([cell], [cell.caller]))
    assert out.getvalue().splitlines()[-1].split() == [policy_rows()[0].method, EMPTY]


def test_rpc_that_no_caller_may_call_is_found() -> None:
    rows, bob = policy_rows()[:2], Caller("bob")
    cells = [Cell(bob, row, code, Outcome(code)) for row, code in zip(rows, (DENIED, OK), strict=True)]
    assert rpcs_that_nobody_may_call(cells) == [rows[0].name]


def test_unusual_code_is_shown_by_its_name() -> None:
    cell = Cell(Caller("bob"), policy_rows()[0], OK, Outcome(grpc.StatusCode.UNIMPLEMENTED))
    out = StringIO()
    make_console(out).print(matrix_view([cell], [cell.caller]))
    assert "!UNIMPLEMENTED" in out.getvalue()


def test_every_sample_request_belongs_to_an_rpc() -> None:
    known = {row.method for row in policy_rows()}
    assert sample_requests(SampleUser("id", "e@x.test", "E"), Caller("bob")).keys() <= known


def test_scope_with_role_mappings_is_expected_of_users_with_the_role() -> None:
    everything = set(EVERY_SCOPE.split())
    assert realm_scopes(REALM, "gatehouse-console", "alice") == everything
    assert realm_scopes(REALM, "gatehouse-console", "bob") == token_scopes("bob") != everything
    assert realm_scopes(REALM, "gatehouse-console", "carol") == set()
    worker = token_scopes("service-account-gatehouse-worker", "gatehouse-worker")
    assert realm_scopes(REALM, "gatehouse-worker", None) == worker != everything


@pytest.mark.parametrize(("client", "user"), [("nobody", None), ("gatehouse-console", "nobody")])
def test_caller_that_is_missing_in_the_realm_file_is_an_error_of_one_line(
    client: str, user: str | None
) -> None:
    with pytest.raises(TestbedError, match="nobody: missing in the realm file"):
        realm_scopes(REALM, client, user)


def test_tampered_token_has_other_scopes_and_the_old_signature() -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({}, {"sub": 1})]
    header, payload, signature = tampered(".".join([*parts, "sig"]), ["a", "b"]).split(".")
    assert (header, signature) == (parts[0], "sig")
    assert json.loads(base64.urlsafe_b64decode(payload + "==")) == {"sub": 1, "scope": "a b"}


METRICS = """
# TYPE rpc_server_call_duration_seconds histogram
rpc_server_call_duration_seconds_bucket{rpc_response_status_code="OK",rpc_method="a/B",le="+Inf"} 3
rpc_server_call_duration_seconds_count{rpc_response_status_code="OK",rpc_method="a/B"} 3
rpc_server_call_duration_seconds_sum{rpc_response_status_code="OK",rpc_method="a/B"} 0.1
rpc_server_call_duration_seconds_count{rpc_response_status_code="OK",rpc_method="a/C"} 2
# TYPE gatehouse_token_verifications_total counter
gatehouse_token_verifications_total{source="cache"} 7
# TYPE gatehouse_authorization_denials_total counter
gatehouse_authorization_denials_total{reason="token_missing",rpc_method="a/B"} 2
# TYPE other_total counter
other_total 9
"""


def test_metrics_are_summed_over_rpcs() -> None:
    assert parse_metrics(METRICS) == {
        (CALLS, "OK"): 5,
        (VERIFICATIONS, "cache"): 7,
        (DENIALS, "token_missing"): 2,
    }


async def test_missing_metrics_are_an_error_of_one_line() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(TestbedError, match="no metrics of users"):
            await fetch_metrics(http, {"users": f"http://127.0.0.1:{Ports.free().traces}/metrics"})
