"""Run a Keycloak distribution on loopback in a temporary folder, for tests and the realm tool."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gatehouse_testbed.ports import free_ports

ADMIN = "admin"
ADMIN_PASSWORD = "for-tests-only"  # noqa: S105 - of a temporary Keycloak on loopback
READY_SECONDS = 300.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.5
# A warning of every start; the others concern the realm file or the options.
_EXPECTED_WARNING = "Deprecated features"
_HELP = (
    "unpack the Keycloak version in .env (https://www.keycloak.org/downloads), run `bin/kc.sh build "
    "--db=dev-mem --health-enabled=true --metrics-enabled=true` in it once, then set KEYCLOAK_HOME to its "
    "folder and JAVA_HOME to a JDK, version 21 or later"
)


class KeycloakError(Exception):
    """Keycloak cannot be run; the message is one line with the reason."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """An unpacked and built Keycloak, and a JDK."""

    home: Path
    java_home: Path


@dataclass(frozen=True, slots=True)
class RunningKeycloak:
    """A Keycloak that is ready.

    Attributes:
        base_url: URL of the server.
        log_file: Its output.
    """

    base_url: str
    log_file: Path


def distribution(environment: Mapping[str, str]) -> Distribution:
    """Return the distribution in KEYCLOAK_HOME and the JDK in JAVA_HOME.

    Raises:
        KeycloakError: One of them is missing or wrong.
    """
    for name, part in (("KEYCLOAK_HOME", "bin/kc.sh"), ("JAVA_HOME", "bin/java")):
        value = environment.get(name)
        if not value:
            raise KeycloakError(f"{name} is not set: {_HELP}")
        if not (Path(value) / part).is_file():
            raise KeycloakError(f"{name}={value} has no {part}: {_HELP}")
    return Distribution(Path(environment["KEYCLOAK_HOME"]).resolve(), Path(environment["JAVA_HOME"]))


@contextmanager
def workspace(keycloak: Distribution) -> Iterator[Path]:
    """Create a temporary Keycloak home with own data; libraries and themes are links."""
    home = Path(tempfile.mkdtemp(prefix="gatehouse-keycloak-"))
    try:
        (home / "bin").mkdir()
        shutil.copy2(keycloak.home / "bin" / "kc.sh", home / "bin" / "kc.sh")
        shutil.copytree(keycloak.home / "conf", home / "conf")
        for name in ("lib", "providers", "themes"):
            (home / name).symlink_to(keycloak.home / name)
        (home / "data" / "import").mkdir(parents=True)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def file_database(home: Path) -> str:
    """Return the option that keeps the database in a file of the workspace instead of in memory."""
    return f"--db-url=jdbc:h2:file:{home}/data/h2/keycloak;NON_KEYWORDS=VALUE"


def run_command(keycloak: Distribution, home: Path, *arguments: str) -> str:
    """Run a command of `kc.sh` and return its output.

    Raises:
        KeycloakError: The command failed.
    """
    # Without these options the command serves health checks on all interfaces, on a fixed port.
    loopback = ("--http-management-host=127.0.0.1", "--http-management-port=0")
    result = subprocess.run(
        [home / "bin" / "kc.sh", *arguments, *loopback],
        env=_environment(keycloak),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise KeycloakError(f"kc.sh {arguments[0]} failed: {_error_in(result.stdout)}")
    return result.stdout


def warnings_in(log: str) -> list[str]:
    """Return the warnings and errors in a log that concern the realm file or the options."""
    lines = [line for line in log.splitlines() if " WARN " in line or " ERROR " in line]
    return [line for line in lines if _EXPECTED_WARNING not in line]


@contextmanager
def run_keycloak(keycloak: Distribution, realm_file: Path) -> Iterator[RunningKeycloak]:
    """Run Keycloak with a realm, with its database in memory, until the context ends.

    Raises:
        KeycloakError: Keycloak does not start.
    """
    with workspace(keycloak) as home:
        shutil.copy2(realm_file, home / "data" / "import" / realm_file.name)
        with serve(keycloak, home, options=["--import-realm"]) as running:
            yield running


@contextmanager
def serve(
    keycloak: Distribution, home: Path, *, port: int = 0, options: Sequence[str] = ()
) -> Iterator[RunningKeycloak]:
    """Run Keycloak in a workspace until the context ends.

    Args:
        keycloak: The distribution.
        home: A workspace of it.
        port: Port on 127.0.0.1; 0 means a free one.
        options: Further options of `kc.sh start`.

    Raises:
        KeycloakError: Keycloak does not start.
    """
    # Keycloak binds them seconds to minutes later.
    other_port, management_port = free_ports(2)
    port = port or other_port
    base_url = f"http://127.0.0.1:{port}"
    log_file = home / "keycloak.log"
    command = [
        str(home / "bin" / "kc.sh"),
        "start",
        "--optimized",
        "--http-enabled=true",
        "--http-host=127.0.0.1",
        f"--http-port={port}",
        f"--http-management-port={management_port}",
        f"--hostname={base_url}",
        "--cache=local",
        *options,
    ]
    with log_file.open("wb") as log:
        # kc.sh replaces itself with the Java process, so this is the process of Keycloak.
        process = subprocess.Popen(
            command, env=_environment(keycloak), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{management_port}/health/ready", log_file)
        yield RunningKeycloak(base_url, log_file)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(keycloak: Distribution) -> dict[str, str]:
    """Return an environment for a fast start, without variables of the caller that Keycloak would read."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "JAVA_HOME": str(keycloak.java_home),
        "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD,
    }


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ok(url):
        log = log_file.read_text(encoding="utf-8", errors="replace")
        if process.poll() is not None:
            raise KeycloakError(f"Keycloak exited with {process.returncode}: {_error_in(log)}")
        if time.monotonic() > deadline:
            raise KeycloakError(f"Keycloak was not ready within {READY_SECONDS:g} s: {_error_in(log)}")
        time.sleep(POLL_SECONDS)


def _is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a loopback URL
            return True
    except OSError:  # also raised for an HTTP error
        return False


def _error_in(log: str) -> str:
    """Return the first error in a log, or else its last line."""
    lines = [line for line in log.splitlines() if line.strip()] or ["no output"]
    return next((line for line in lines if "ERROR" in line), lines[-1])
