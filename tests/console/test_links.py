"""Links to the tools beside the console."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from gatehouse.client.profile import Profile
from gatehouse.settings import ConfigurationError
from gatehouse_console.config import parse_links
from tests.console.conftest import open_console


async def test_every_page_links_to_the_other_tools(stack: AsyncExitStack, profile: Profile) -> None:
    links = parse_links(
        ["Traces & logs=http://localhost:16686/?a=1&b#/c", "Metrics=https://metrics.example.com"]
    )
    browser = (await open_console(stack, profile, links=links))()
    for path in ("/", "/nothing"):
        page = await browser.get(path)
        assert '<a href="http://localhost:16686/?a=1&amp;b#/c">Traces &amp; logs</a>' in page.text
        assert '<a href="https://metrics.example.com">Metrics</a>' in page.text


@pytest.mark.parametrize(
    "link",
    [
        "Traces",
        "Traces=",
        "=http://localhost",
        "Traces=javascript:alert(1)",
        "Traces=//host",
        "Traces=http://a b",
    ],
)
def test_link_that_is_no_name_and_url_is_an_error(link: str) -> None:
    with pytest.raises(ConfigurationError, match="not NAME=URL"):
        parse_links([link])
