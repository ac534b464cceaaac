"""Environments of processes: what the shell of the user sets for other programs must not change ours."""

from __future__ import annotations

from collections.abc import Mapping

# All that a child process inherits. A list of what to remove would be endless: `OTEL_SDK_DISABLED`,
# `PGHOSTADDR`, `https_proxy`, `PROMETHEUS_MULTIPROC_DIR`, `PYTHONINSPECT`, `SSLKEYLOGFILE` and more.
_INHERITED = {
    "HOME",
    "LOGNAME",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "USER",
    "XDG_CACHE_HOME",
    # Python itself may need these to start.
    "DYLD_FALLBACK_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
}
# Measures the coverage of child processes.
_PREFIX = "COVERAGE_"
_FIXED = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def child_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `outside` that a child process inherits, with a fixed locale and time zone."""
    kept = {k: v for k, v in outside.items() if k in _INHERITED or k.startswith(_PREFIX)}
    return kept | _FIXED


def libpq_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Return `outside` for a process that is itself a client of an embedded PostgreSQL, such as pytest.

    libpq reads what a URL leaves open from `PG*`: `PGHOSTADDR` or a service file sends it to another server.
    """
    return {name: value for name, value in outside.items() if not name.startswith("PG")}
