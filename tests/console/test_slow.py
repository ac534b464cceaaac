"""Services and an issuer that do not answer: pages say which, and stay usable."""

from __future__ import annotations

import html

import pytest

from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser


@pytest.mark.parametrize(
    ("path", "fault", "parts"),
    [
        # <part admin>
        ("/roles", "List*", ("ListRoleBindings failed: admin at ", "DEADLINE_EXCEEDED", ">Grant</button>")),
        # </part admin>
        ("/token", "issuer/introspection", ("Not introspected: the issuer does not respond", "auth_time")),
    ],
)
async def test_page_names_what_does_not_answer(
    on_system: Browser, gatehouse: Testbed, path: str, fault: str, parts: tuple[str, ...]
) -> None:
    await on_system.sign_in("alice", return_to="/nothing")
    gatehouse.faults.add(fault, hang=True)
    page = await on_system.get(path)
    assert page.status_code == 200
    assert [part for part in parts if part not in html.unescape(page.text)] == []
    gatehouse.faults.reset()
    assert parts[0] not in (await on_system.get(path)).text


@pytest.mark.parametrize("target", ["issuer/discovery", "issuer/token"])
async def test_sign_in_names_an_issuer_that_does_not_answer(
    on_system: Browser, gatehouse: Testbed, target: str
) -> None:
    login = await on_system.open_login_page() if target == "issuer/token" else None
    gatehouse.faults.add(target, hang=True)
    if login is None:
        page = await on_system.get("/sign-in")
    else:
        redirect = await on_system.enter_password(login)
        page = await on_system.get(redirect.headers["location"])
    assert (page.status_code, "The issuer does not respond" in page.text) == (503, True)
    assert gatehouse.issuer in page.text
    gatehouse.faults.reset()
    assert (await on_system.get("/sign-in?return_to=/call")).status_code == 200
