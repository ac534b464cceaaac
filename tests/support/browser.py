"""A browser without a screen, as $BROWSER: `python browser.py FORM URL` opens a page and fills in all forms.

FORM is what the user enters, or `decline` to answer as an issuer whose user has declined.
"""

from __future__ import annotations

import html
import re
import sys
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

# Like a browser, keep the secure cookies of Keycloak on loopback.
_ON_LOOPBACK = DefaultCookiePolicy(secure_protocols=("http", "https"))


def main(form: str, url: str) -> None:
    """Open the page."""
    browser = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar(_ON_LOOPBACK)))
    if form == "decline":
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        issuer = url.partition("/protocol/")[0]
        answer = urlencode({"error": "access_denied", "state": query["state"], "iss": issuer})
        browser.open(f"{query['redirect_uri']}?{answer}").read()
        return
    page = browser.open(url).read().decode()
    while (action := re.search(r'<form [^>]*action="([^"]+)"', page)) is not None:
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
        content = "&".join((form, urlencode(hidden), "accept=yes"))
        page = browser.open(html.unescape(action[1]), content.encode()).read().decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
