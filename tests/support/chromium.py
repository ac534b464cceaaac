"""The Chromium of this machine, without a screen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

_PATIENCE_SECONDS = 30
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start the browser. Until it is closed, no coroutine can run in this thread."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    assert program is not None, "install Chromium or Chrome, such as with apt-get install chromium"
    expect.set_options(timeout=_PATIENCE_SECONDS * 1000)  # by default 5 s, which a busy machine may need
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root.
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()
