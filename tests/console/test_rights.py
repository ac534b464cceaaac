"""The pages of roles and of the audit trail."""

# <part admin/>

from __future__ import annotations

import html
import re
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import call_once, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method
from gatehouse.users.v1 import users_pb2
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.console.conftest import ORIGIN
from tests.support.eventually import eventually


def bindings(page: httpx.Response) -> list[tuple[str, str]]:
    """Return user and role of each line."""
    return re.findall(
        r'<th scope="row"><a href="/roles\?user_id=[^"]+">([^<]+)<.*?<a href="/roles\?role=[^"]+">([^<]+)<',
        page.text,
        re.DOTALL,
    )


def events(page: httpx.Response) -> list[tuple[str, str]]:
    """Return action and resource of each line."""
    return re.findall(
        r'<th scope="row">([^<]+)</th>\s*<td><a class="id" href="/audit\?resource=[^"]+">([^<]+)<', page.text
    )


def link(page: httpx.Response, text: str) -> str:
    """Return where a link leads."""
    found = re.search(rf'href="([^"]+)">{text}<', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


async def call_as_alice(
    gatehouse: Testbed, profile: Profile, service: str, method: str, request: Message
) -> Any:
    """Call an RPC without the console, and return its response."""
    rpc = find_method(SERVICES[service].descriptor, method)
    async with open_channel(profile, service) as channel:
        done = await call_once(channel, rpc, [request], token=gatehouse.token("alice"))
    assert done.code is grpc.StatusCode.OK, done
    return done.responses[0]


async def change(browser: Browser, page: httpx.Response, kind: str, user: str, role: str) -> httpx.Response:
    return await browser.submit(page, "/roles", user=user, role=role, change=kind)


async def test_role_is_granted_by_email_and_revoked(on_system: Browser, gatehouse: Testbed) -> None:
    page = await on_system.sign_in("alice", return_to="/roles")
    assert "No role was given yet." in page.text
    assert '<option value="bob@example.test">' in page.text
    page = await change(on_system, page, "grant", "bob@example.test", "editor")
    assert str(page.url) == f"{ORIGIN}/roles?user_id={gatehouse.users['bob']}"
    (line,) = bindings(page)
    assert line[1] == "editor"
    assert ">you</span>" in page.text
    everything = await on_system.get("/roles")
    assert bindings(everything) == [line]
    page = await change(on_system, everything, "revoke", gatehouse.users["bob"].upper(), "editor")
    assert bindings(page) == []
    assert "No role was given that matches." in page.text


async def test_delivery_of_each_change_is_shown(on_system: Browser, gatehouse: Testbed) -> None:
    page = await on_system.sign_in("alice", return_to="/roles")
    for role in ("editor", "unknown"):
        page = await change(on_system, page, "grant", gatehouse.users["bob"], role)
    again = link(page, "Look again")

    async def states() -> bool:
        text = (await on_system.get(again)).text
        found = re.findall(r"<td>granted (\w+)</td>.*?>(waiting|delivered)</span>(.*?)</td>", text, re.DOTALL)
        assert [role for role, _, _ in found] == ["unknown", "editor"]
        return [state for _, state, _ in found] == ["waiting", "delivered"] and "next" in found[0][2]

    await eventually(states, interval=0.2)


async def test_caller_who_may_not_change_roles_sees_rule_and_challenge(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/roles")
    text = html.unescape(page.text)
    for part in (
        "ListRoleBindings was refused: <code>PERMISSION_DENIED</code>",
        "does not give enough rights. The call needs all of: admin.",
        'option (gatehouse.authz.v1.access) = { scopes: "admin" };',
        'www-authenticate: Bearer realm="gatehouse", error="insufficient_scope"',
        '<a href="/traces/',
    ):
        assert part in text
    page = await change(on_system, page, "grant", "carol@example.test", "admin")
    text = html.unescape(page.text)
    assert "ManageRoles was refused: <code>PERMISSION_DENIED</code>" in text
    assert 'roles: "admin" online: true' in text
    assert 'value="carol@example.test"' in text


@pytest.mark.parametrize("user", ["*", "bob*", '"', 'x" OR "', "\\", "nobody@example.test", " ", "<script>"])
async def test_role_is_granted_to_exactly_the_user_that_was_named(on_system: Browser, user: str) -> None:
    page = await on_system.sign_in("alice", return_to="/roles")
    page = await change(on_system, page, "grant", user, "admin")
    assert 'role="alert"' in page.text
    assert "<script>" not in page.text
    assert bindings(await on_system.get("/roles")) == []


async def test_malformed_role_and_unknown_user_are_explained(on_system: Browser, gatehouse: Testbed) -> None:
    page = await on_system.sign_in("alice", return_to="/roles")
    refused = await change(on_system, page, "grant", gatehouse.users["bob"], "Not A Role")
    assert "<code>grant_roles[0]</code>" in refused.text
    assert 'value="Not A Role"' in refused.text
    refused = await change(on_system, page, "grant", "00000000-0000-0000-0000-000000000000", "editor")
    assert "USER_NOT_FOUND" in refused.text
    filtered = await on_system.get("/roles?user_id=x")
    assert "<code>user_id</code>" in filtered.text


async def test_service_that_is_down_is_named_and_the_rest_of_the_page_works(browser: Browser) -> None:
    page = await browser.sign_in(return_to="/roles")
    assert page.status_code == 200
    assert "ListRoleBindings failed: admin at 127.0.0.1:1 does not respond" in page.text
    page = await change(browser, page, "grant", "bob@example.test", "editor")
    assert "ListUsers failed: users at 127.0.0.1:1 does not respond" in page.text
    assert 'value="bob@example.test"' in page.text


async def test_many_bindings_and_events_are_paged(
    on_system: Browser, gatehouse: Testbed, bed_profile: Profile
) -> None:
    request = pb.ManageRolesRequest(user_id=gatehouse.users["bob"])
    for start in (0, 17, 34):
        request.grant_roles[:] = [f"role-{number}" for number in range(start, start + 17)]
        await call_as_alice(gatehouse, bed_profile, "admin", "ManageRoles", request)
    await on_system.sign_in("alice", return_to="/nothing")
    for path, back, more, lines in (
        (f"/roles?user_id={gatehouse.users['bob']}", "First", "Next", bindings),
        ("/audit", "Newest", "Older", events),
    ):
        first = await on_system.get(path)
        last = await on_system.get(link(first, more))
        assert (len(lines(first)), len({*lines(first), *lines(last)})) == (50, 51)
        assert f">{more}<" not in last.text
        assert lines(await on_system.get(link(last, back))) == lines(first)


async def test_changes_are_listed_newest_first_and_filtered(on_system: Browser, gatehouse: Testbed) -> None:
    page = await on_system.sign_in("alice", return_to="/audit")
    assert "Nothing has been changed yet." in page.text
    roles = await on_system.get("/roles")
    for kind, user in (("grant", "bob"), ("grant", "carol"), ("revoke", "bob")):
        await change(on_system, roles, kind, gatehouse.users[user], "editor")
    bob, carol = (f"users/{gatehouse.users[name]}/roles/editor" for name in ("bob", "carol"))
    page = await on_system.get("/audit")
    assert events(page) == [("role.revoked", bob), ("role.granted", carol), ("role.granted", bob)]
    assert page.text.count(">you</span>") == 3
    assert "bob@example.test" in page.text
    assert "gatehouse-console" in page.text
    assert events(await on_system.get(link(page, carol))) == [("role.granted", carol)]
    subject = re.search(r'href="(/audit\?subject=[^"]+)"', page.text)
    assert subject is not None
    assert events(await on_system.get(html.unescape(subject[1]))) == events(page)
    assert "No event matches" in (await on_system.get("/audit?subject=nobody")).text


async def test_caller_who_may_not_read_it_sees_why(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/audit")
    assert "ListAuditEvents was refused: <code>PERMISSION_DENIED</code>" in page.text
    assert "The call needs all of: admin." in page.text


async def test_invalid_filter_is_explained_and_kept(on_system: Browser) -> None:
    await on_system.sign_in("alice", return_to="/audit")
    page = await on_system.get("/audit?issuer=<script>")
    assert "issuer requires subject" in page.text
    assert 'value="&lt;script&gt;"' in page.text
    page = await on_system.get("/audit?page_token=x")
    assert "INVALID_ARGUMENT" in page.text


async def test_html_in_the_name_of_a_user_is_text(
    on_system: Browser, gatehouse: Testbed, bed_profile: Profile
) -> None:
    name = "<img src=x onerror=alert(1)>"
    new = users_pb2.User(email="mallory@example.test", display_name=name)
    user = await call_as_alice(
        gatehouse, bed_profile, "users", "CreateUser", users_pb2.CreateUserRequest(user=new)
    )
    page = await on_system.sign_in("alice", return_to="/roles")
    await change(on_system, page, "grant", user.user_id, "editor")
    for path, fields in (("/roles", 4), ("/audit", 1)):
        text = (await on_system.get(path)).text
        assert text.count(html.escape(name)) == fields
        assert name not in text
