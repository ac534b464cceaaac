"""The matrix on the whole system."""

from __future__ import annotations

import asyncio
import html
import re

import httpx
import pytest
from pydantic import SecretStr

from gatehouse.app.policy import policy_rows
from gatehouse.client.profile import Profile
from gatehouse_console.callers import find_callers
from gatehouse_console.challenges import explain_challenge
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer


def verdicts(page: httpx.Response) -> dict[tuple[str, str], str]:
    """Return the verdict of each cell by method and caller, with what it was before if it changed."""
    labels = re.findall(
        r'class="verdict \w+" href="/cell/[^"]+"\s+aria-label="(\w+) by ([^:]+): ([^"]+)"', page.text
    )
    return {(method, caller): verdict for method, caller, verdict in labels}


async def test_every_rpc_is_called_as_every_caller_and_changes_nothing(
    on_system: Browser, gatehouse: Testbed
) -> None:
    found = verdicts(await on_system.sign_in("bob"))
    callers = {"you", "no token", "alice", "bob", "carol", "gatehouse-worker", "gatehouse-elsewhere"}
    assert {caller for _, caller in found} >= callers
    assert {method for method, _ in found} == {row.method for row in policy_rows()}
    expected = {
        # <part public>
        ("GetPublicInfo", "no token"): "allowed",
        ("GetPublicInfo", "you"): "allowed",
        # </part public>
        ("GetCurrentUser", "no token"): "unauthenticated",
        ("GetCurrentUser", "carol"): "allowed",
        ("ListUsers", "you"): "allowed",
        ("ListUsers", "carol"): "denied",
        ("ListUsers", "gatehouse-elsewhere"): "unauthenticated",
        ("WatchUsers", "bob"): "allowed",
        ("LookupUsers", "bob"): "allowed",
        ("CreateUser", "you"): "denied",
        ("CreateUser", "alice"): "allowed",
        ("ImportUsers", "gatehouse-worker"): "allowed",
        ("DeleteUser", "alice"): "allowed",
        ("DeleteUser", "gatehouse-worker"): "denied",
        # <part admin>
        ("ManageRoles", "alice"): "allowed",
        ("ManageRoles", "no token"): "unauthenticated",
        # </part admin>
    }
    assert {place: found[place] for place in expected} == expected
    assert all(found[row.method, "you"] == found[row.method, "bob"] for row in policy_rows())
    changes = {"CreateUser", "UpdateUser", "ImportUsers", "DeleteUser"}
    # <part admin>
    changes |= {"ManageRoles"}
    # </part admin>
    codes = {call.code for call in gatehouse.calls() if call.method.rpartition("/")[2] in changes}
    assert codes <= {"INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED"}


async def test_callers_without_a_token_are_named_with_the_reason(on_system: Browser) -> None:
    page = await on_system.sign_in()
    note = re.search(r"Without a token, and not shown:(.+?)</p>", page.text, re.DOTALL)
    assert note is not None
    assert "dave (the issuer refused (invalid_grant))" in note[1]
    assert "gatehouse-brief (its tokens are valid for 1 s, which is too short)" in note[1]


async def test_cell_explains_the_denial(on_system: Browser) -> None:
    page = await on_system.sign_in("bob")
    link = re.search(r'href="(/cell/you/[\w.]+/DeleteUser)"', page.text)
    assert link is not None
    text = html.unescape((await on_system.get(link[1])).text)
    for part in (
        "bob, who is signed in",
        'option (gatehouse.authz.v1.access) = { scopes: "admin" scopes: "delete:users" };',
        "a byte that is not a DeleteUserRequest",
        "PERMISSION_DENIED",
        'error="insufficient_scope"',
        "does not give enough rights. The call needs all of: admin, delete:users.",
    ):
        assert part in text
    assert re.search(r'href="/traces/[0-9a-f]{32}"', text)


async def test_run_again_marks_what_changed(on_system: Browser, gatehouse: Testbed) -> None:
    page = await on_system.sign_in("bob")
    assert "changed since" not in page.text
    gatehouse.faults.add("GetCurrentUser", code="UNAVAILABLE")
    page = await on_system.submit(page, "/run")
    changed = {place: text for place, text in verdicts(page).items() if "was" in text}
    assert changed["GetCurrentUser", "you"] == "failed, was allowed"
    assert {method for method, _ in changed} == {"GetCurrentUser"}
    assert f"{len(changed)} changed since the run before" in page.text
    link = re.search(r'href="(/cell/you/[\w.]+/GetCurrentUser)"', page.text)
    assert link is not None
    assert "<dt>Before</dt>" in (await on_system.get(link[1])).text
    gatehouse.faults.reset()
    page = await on_system.submit(page, "/run")
    assert verdicts(page)["GetCurrentUser", "you"] == "allowed, was failed"
    page = await on_system.submit(page, "/run")
    assert "changed since" not in page.text


async def test_issuer_that_is_down_is_named_as_the_reason_of_missing_callers(
    on_system: Browser, gatehouse: Testbed
) -> None:
    page = await on_system.sign_in("bob")
    gatehouse.faults.add("issuer/*", status=503)
    page = await on_system.submit(page, "/run")
    assert ("GetUser", "you") in verdicts(page)
    assert "alice (the issuer does not respond (" in page.text
    # When they are back, their cells are compared with the last ones that they had.
    gatehouse.faults.reset()
    gatehouse.faults.add("GetPublicInfo", code="UNAVAILABLE")
    page = await on_system.submit(page, "/run")
    assert verdicts(page)["GetPublicInfo", "alice"] == "failed, was allowed"


async def test_demo_users_log_in_a_few_at_a_time(idp: LoopbackIssuer) -> None:
    idp.answer("token", Reply({"access_token": "access", "token_type": "Bearer", "expires_in": 300}))
    idp.hold("token")
    users = [f"user-{number}" for number in range(9)]
    profile = Profile(issuer=idp.issuer, passwords={name: SecretStr(name) for name in users})
    searching = asyncio.create_task(find_callers(profile, "alice", "token"))
    await eventually(lambda: idp.request_count("token") >= 3)
    assert idp.request_count("token") == 3
    idp.release("token")
    assert [caller.name for caller in (await searching).found] == ["you", "no token", *users]


async def test_unknown_cell_is_explained(on_system: Browser) -> None:
    await on_system.sign_in("bob")
    page = await on_system.get("/cell/mallory/gatehouse.users.v1.UserService/GetUser")
    assert (page.status_code, "No such cell" in page.text) == (404, True)


async def test_services_that_are_down_fail_and_the_page_shows_it(browser: Browser) -> None:
    page = await browser.sign_in()
    assert set(verdicts(page).values()) == {"failed"}
    link = re.search(r'href="(/cell/you/[\w.]+/GetUser)"', page.text)
    assert link is not None
    assert "UNAVAILABLE" in (await browser.get(link[1])).text


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("", ""),
        ('Bearer realm="x"', "has no token"),
        ('Bearer error="invalid_token"', "expired, revoked, malformed, or of another issuer"),
        ('Bearer error="insufficient_scope", scope="a b"', "needs all of: a, b"),
        ('Bearer error="insufficient_scope"', "does not give enough rights"),
        (
            'Bearer error="insufficient_user_authentication", acr_values="mfa", max_age="60"',
            "Log in again, with authentication context mfa and within 60 s of the call.",
        ),
        (
            r'Bearer error="insufficient_user_authentication", acr_values="a\"b", max_age=60, scope="x"',
            'Log in again, with authentication context a"b and within 60 s of the call.',
        ),
        ('Bearer error="insufficient_user_authentication"', "Log in again."),
        ('Bearer error="other"', "The token is refused."),
    ],
)
def test_challenge_is_explained(challenge: str, words: str) -> None:
    assert words in explain_challenge(challenge)
    assert bool(explain_challenge(challenge)) is bool(words)
