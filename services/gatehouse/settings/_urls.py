"""Which hosts are this machine, and which URLs may carry tokens and secrets."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_URL_CHARS = 2048


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an IP address, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_error(url: str, *, allow_http: bool) -> str:
    """Return why requests must not be sent to `url`, or an empty string if they may.

    Args:
        url: An absolute URL without user information and fragment.
        allow_http: Allow plain HTTP to hosts other than loopback.

    Returns:
        `url_malformed`, `url_not_https`, or an empty string.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "url_malformed"
    if not host or port == 0 or "@" in parts.netloc or "#" in url:
        return "url_malformed"
    if len(url) > MAX_URL_CHARS or " " in url or not url.isprintable():
        return "url_malformed"
    if parts.scheme == "https" or (parts.scheme == "http" and (allow_http or is_loopback(host))):
        return ""
    return "url_not_https"
