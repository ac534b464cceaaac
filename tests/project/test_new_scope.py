"""`make new-scope` adds a scope that reaches the tokens of users with the role, and of no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest

from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.tour.callers import realm_scopes
from tests.support.realm import CONSOLE, REALM, token_roles
from tools.new_scope import ROOT, add_scope, check


@pytest.mark.parametrize(("role", "allowed"), [("new-role", ["alice"]), ("user", ["alice", "bob"])])
def test_users_with_the_role_get_the_scope(tmp_path: Path, role: str, allowed: list[str]) -> None:
    content = deepcopy(REALM)
    add_scope(content, "close:bills", role)
    file = tmp_path / "realm.json"
    file.write_text(json.dumps(content))
    realm = load_realm(file, {})
    users = ("alice", "bob", "carol")
    assert [user for user in users if "close:bills" in realm_scopes(realm, CONSOLE, user)] == allowed
    assert token_roles("alice", realm=content) == token_roles("alice") | {role}


@pytest.mark.parametrize(
    ("scope", "role", "problem"),
    [
        ("close", "editor", "NAME=close: use a verb and a noun, such as close:bills"),
        ("Close:Bills", "editor", "NAME=Close:Bills: use a verb and a noun, such as close:bills"),
        ('a:"', "editor", 'NAME=a:": use a verb and a noun, such as close:bills'),
        ("close:bills", "", "ROLE=: name the role whose users get the scope, such as editor"),
        (
            "read:users",
            "editor",
            "NAME=read:users: keycloak/gatehouse-realm.json has this scope; choose another name",
        ),
    ],
)
def test_a_scope_that_cannot_be_added_is_refused(scope: str, role: str, problem: str) -> None:
    assert check(REALM, scope, role) == problem


def test_a_refusal_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "tools/new_scope.py", "read:users", "editor"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("new-scope: NAME=read:users: ")
