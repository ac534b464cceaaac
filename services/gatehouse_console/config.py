"""Where the console is, as browsers see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gatehouse.settings import ConfigurationError, is_loopback, url_error

CALLBACK_PATH = "/callback"
HEALTH_PATH = "/health"
DEFAULT_PORT = 8090


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of the console (RFC 6454), such as `http://127.0.0.1:8090`.

    Attributes:
        url: Scheme, host and port, without a slash at the end.
    """

    url: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin of a URL without a path.

        Raises:
            ConfigurationError: It is not one, or has plain HTTP although it is not on loopback.
        """
        url = url.removesuffix("/")
        problem = url_error(url, allow_http=False)
        if problem == "url_not_https":
            raise ConfigurationError(
                f"--url {url}: plain HTTP does not protect cookies, so it is for loopback addresses only; "
                "put a proxy with TLS in front, and set its https URL"
            )
        parts = urlsplit(url)
        if problem or parts.path or parts.query or parts.netloc != parts.netloc.lower():
            raise ConfigurationError(
                f"--url {url}: not an origin; use scheme, host in lower case and port, such "
                "as https://console.example.com"
            )
        return cls(url)

    @property
    def host(self) -> str:
        """Host and port, as in the header `Host`."""
        return urlsplit(self.url).netloc

    @property
    def is_https(self) -> bool:
        """Whether browsers use HTTPS."""
        return self.url.startswith("https:")

    @property
    def redirect_uri(self) -> str:
        """Where the issuer sends browsers back to, after a login and after a logout."""
        return f"{self.url}{CALLBACK_PATH}"

    def is_alias(self, host: str) -> bool:
        """Return whether a header `Host` names this port on loopback by another name, such as `localhost`."""
        name, _, port = host.rpartition(":")
        own, _, own_port = self.host.rpartition(":")
        return port == own_port and is_loopback(name) and is_loopback(own)

    def cookie(self, name: str) -> str:
        """Return the name of a cookie; with its prefix, browsers accept it over HTTPS from this host only."""
        return f"__Host-gatehouse-{name}" if self.is_https else f"gatehouse-{name}"


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another tool, in the footer of every page."""

    name: str
    url: str


def parse_links(values: Iterable[str]) -> tuple[Link, ...]:
    """Return the links that are given as `NAME=URL`.

    Raises:
        ConfigurationError: One has no name, or no absolute URL with `http` or `https`.
    """
    links = []
    for value in values:
        name, _, url = value.partition("=")
        if not name.strip() or url_error(url.partition("#")[0], allow_http=True):
            raise ConfigurationError(
                f"--link {value}: not NAME=URL; use a name and an http or https URL, such as "
                "Traces=http://localhost:16686"
            )
        links.append(Link(name.strip(), url))
    return tuple(links)
