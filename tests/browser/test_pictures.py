"""The pictures of the documentation. `make pictures` keeps them; the test checks that they can be taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from gatehouse_testbed.bed.client import Testbed
from tests.browser.conftest import run_console
from tests.browser.test_console import sign_in
from tests.project.test_pictures import SIZES, size_of

USER = "alice"
CLIENT = "gatehouse-worker"


def take(page: Page, folder: Path, subject: str, scheme: str) -> None:
    """Take a picture of the window, without what differs in each run."""
    width, height = SIZES[subject]
    page.set_viewport_size({"width": width, "height": height})
    page.get_by_role("main").evaluate(
        """main => {
            const texts = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                const text = texts.currentNode;
                text.data = text.data.replace(/[0-9.]+ s at\\s+[0-9:]+ UTC/, "0.5 s at 12:00:00 UTC")
                    .replace(/^[0-9]+ ms$/, "3 ms");
            }
        }"""
    )
    page.mouse.move(0, 0)
    file = folder / f"{subject}-{scheme}.png"
    page.screenshot(path=file)
    assert size_of(file) == SIZES[subject]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_matrix_and_of_a_denied_cell(
    scheme: Literal["light", "dark"], chromium: Browser, gatehouse: Testbed, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("PICTURES", tmp_path))
    passwords = {USER: gatehouse.passwords[USER]}
    clients = {name: gatehouse.clients[name] for name in (CLIENT, "gatehouse-api")}
    with (
        run_console(gatehouse, tmp_path, passwords=passwords, clients=clients) as url,
        chromium.new_context(base_url=url, color_scheme=scheme) as context,
    ):
        page = context.new_page()
        sign_in(page, "bob")
        take(page, folder, "matrix", scheme)
        page.get_by_role("link", name="DeleteUser by you: denied").click()
        expect(page.get_by_text("The call needs all of: admin, delete:users.")).to_be_visible()
        take(page, folder, "denied", scheme)
