"""Database URLs: one reading of them for the pool, the listeners and the migrations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

_SCHEMES = {"postgresql", "postgres", "postgresql+psycopg"}
_DEFAULT_PORT = "5432"
_MAX_PORT = 65535
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d*))?")


def database_parameters(url: str) -> dict[str, str]:
    """Return the parameters of libpq that a database URL contains.

    Several hosts are written as in libpq, `//role@a:5432,b:5433/database`, or as in SQLAlchemy,
    `//role@/database?host=a:5432&host=b:5433`. All other parameters of the query are libpq's own.

    Raises:
        ValueError: It is not a URL of PostgreSQL.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator:
        raise ValueError("the scheme is not postgresql")
    address, _, query = rest.partition("?")
    location, _, database = address.partition("/")
    login, _, hosts = location.rpartition("@")
    user, _, password = login.partition(":")
    parameters = {"user": user, "password": password, "dbname": database}
    parameters = {name: unquote(value) for name, value in parameters.items() if value}
    named = []
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError("a parameter has no value")
        if name == "host":
            named += unquote(value).split(",")
        else:
            parameters[name] = unquote(value)
    return parameters | _hosts(named or [unquote(host) for host in hosts.split(",") if hosts], parameters)


def _hosts(hosts: Iterable[str], parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters `host` and `port` for hosts that may have ports."""
    names, ports = [], []
    for host in hosts:
        found = _HOST.fullmatch(host)
        is_name = host.startswith(("/", "@")) or (host.count(":") > 1 and not host.startswith("["))
        if is_name or found is None:
            if not is_name:
                raise ValueError("a host is malformed")
            names.append(host)
            ports.append("")
            continue
        names.append(found["v6"] if found["v6"] is not None else found["name"])
        ports.append(found["port"] or "")
        if found["port"] and not 0 < int(found["port"]) <= _MAX_PORT:
            raise ValueError("a port is out of range")
    result = {"host": ",".join(names)} if names else {}
    if any(ports):
        if "port" in parameters:
            raise ValueError("a port is given twice")
        result["port"] = ",".join(port or _DEFAULT_PORT for port in ports)
    return result


def with_login(url: str, user: str = "", password: str | None = None) -> str:
    """Return a database URL in clear, with the user and the password that it lacks.

    The password is only added for a URL with a user.
    """
    parameters = database_parameters(url)
    added = {}
    if user and "user" not in parameters:
        added["user"] = user
    if password is not None and "password" not in parameters and "user" in parameters | added:
        added["password"] = password
    if not added:
        return url
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in added.items())
    return f"{url}{'&' if '?' in url else '?'}{query}"
