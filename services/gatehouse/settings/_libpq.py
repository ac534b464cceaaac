"""The connection parameters of libpq, and which values they can have."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gatehouse.settings._names import nearest

_SWITCHES = ("0", "1")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_NUMBERS = frozenset(
    {"connect_timeout", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"}
)
_PROTOCOLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# Values of the parameters that have only some (https://www.postgresql.org/docs/18/libpq-connect.html).
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("require", "prefer", "disable"),
    "gssdelegation": _SWITCHES,
    "gssencmode": ("disable", "prefer", "require"),
    "keepalives": _SWITCHES,
    "load_balance_hosts": ("disable", "random"),
    "ssl_max_protocol_version": _PROTOCOLS,
    "ssl_min_protocol_version": _PROTOCOLS,
    "sslcertmode": ("disable", "allow", "require"),
    "sslcompression": _SWITCHES,
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslsni": _SWITCHES,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_OTHERS = frozenset(
    {
        "application_name",
        "client_encoding",
        "dbname",
        "fallback_application_name",
        "gsslib",
        "host",
        "hostaddr",
        "krbsrvname",
        "max_protocol_version",
        "min_protocol_version",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "options",
        "passfile",
        "password",
        "port",
        "replication",
        "require_auth",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "sslcert",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslkeylogfile",
        "sslpassword",
        "sslrootcert",
        "user",
    }
)
PARAMETERS = frozenset(_CHOICES) | _NUMBERS | _OTHERS


def parameter_problem(parameters: Mapping[str, str]) -> str:
    """Return why libpq would refuse parameters, an empty string if it would not.

    Only names of libpq are in the text. Another one may be part of a password with a `?` or `&`.
    """
    for name, value in parameters.items():
        if name not in PARAMETERS:
            similar = nearest(name, sorted(PARAMETERS))
            fix = f"did you mean {similar}?" if similar else "write ? and & in a password as %3F and %26"
            return f"has a parameter that PostgreSQL does not know; {fix}"
        if name in _CHOICES and value not in _CHOICES[name]:
            return f"{name} must be one of {', '.join(_CHOICES[name])}"
        if name in _NUMBERS and _NUMBER.fullmatch(value) is None:
            return f"{name} must be an integer"
    return ""
