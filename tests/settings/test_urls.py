"""Which hosts are this machine, and which URLs may carry tokens and secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.settings import is_loopback, url_error


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.255.255.254", True), ("::1", True), ("[::1]", True)]
    + [("10.0.0.1", False), ("::", False), ("localhost.", False), ("LOCALHOST", False), ("", False)]
    + [("128.0.0.1", False), ("localhost.a.test", False)],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "url",
    ["https://a.test", "https://a.test:1/x?y=z", "https://192.0.2.1/", "http://127.0.0.1:8080/x"]
    + ["http://127.1.2.3", "http://[::1]:80/", "http://localhost/realms/r", "HTTPS://A.TEST/"],
)
def test_https_is_allowed_and_http_on_loopback(url: str) -> None:
    assert url_error(url, allow_http=False) == ""


@pytest.mark.parametrize(
    "url",
    ["http://a.test", "http://192.0.2.1", "http://[2001:db8::1]/", "http://localhost.a.test/"]
    + ["http://0.0.0.0/", "ftp://a.test/", "file://localhost/etc/passwd", "ws://a.test/"],
)
def test_other_schemes_are_refused(url: str) -> None:
    assert url_error(url, allow_http=False) == "url_not_https"


@pytest.mark.parametrize(
    "url",
    ["", "a.test", "/path", "//", "https://", "https:///path", "file:///etc/passwd", "https://[::1"]
    + ["https://a:b/", "https://a.test:0/", "https://a.test:65536/", "https://user:pass@a.test/"]
    + ["https://a.test/#fragment", "https://a.test/\n", "https://a .test/", "https://a.test/\ud800"]
    + ["https://a\0.test/", "https://" + "a" * 3000, "mailto:a@a.test", "javascript:alert(1)"],
)
@pytest.mark.parametrize("allow_http", [True, False])
def test_malformed_urls_are_refused(url: str, allow_http: bool) -> None:
    assert url_error(url, allow_http=allow_http) == "url_malformed"


def test_http_beyond_loopback_can_be_allowed() -> None:
    assert url_error("http://keycloak:8080/realms/r", allow_http=True) == ""
    assert url_error("ftp://keycloak/", allow_http=True) == "url_not_https"


@given(st.text(max_size=40) | st.text(max_size=30).map(lambda rest: f"https://{rest}"))
def test_any_text_has_a_result(url: str) -> None:
    assert url_error(url, allow_http=False) in {"", "url_malformed", "url_not_https"}
