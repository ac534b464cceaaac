"""Runs a Keycloak distribution on loopback, in a folder that is thrown away: for tests, the realm check."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ADMIN = "admin"
ADMIN_PASSWORD = "for-tests-only"  # noqa: S105 - of a Keycloak on loopback that is thrown away
READY_SECONDS = 300.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.5
# What Keycloak says of itself on every start; the rest of its warnings are about what it was given.
_HARMLESS = ("Deprecated features",)
_HOW = (
    "unpack the Keycloak that .env names (https://www.keycloak.org/downloads), run `bin/kc.sh build "
    "--db=dev-mem --health-enabled=true --metrics-enabled=true` in it once, then set KEYCLOAK_HOME to its "
    "folder and JAVA_HOME to a JDK of 21 or later"
)


class KeycloakError(Exception):
    """Keycloak cannot be run; one line says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """An unpacked and built Keycloak, and the JDK that it runs on."""

    home: Path
    java_home: Path


@dataclass(frozen=True, slots=True)
class RunningKeycloak:
    """A Keycloak that answers.

    Attributes:
        base_url: Where it is reached.
        management_url: Where its health and metrics are.
        log_file: What it has written.
    """

    base_url: str
    management_url: str
    log_file: Path


def distribution(environment: Mapping[str, str]) -> Distribution:
    """Returns what KEYCLOAK_HOME and JAVA_HOME name.

    Raises:
        KeycloakError: One of them is missing or wrong.
    """
    for name, part in (("KEYCLOAK_HOME", "bin/kc.sh"), ("JAVA_HOME", "bin/java")):
        value = environment.get(name)
        if not value:
            raise KeycloakError(f"{name} is not set: {_HOW}")
        if not (Path(value) / part).is_file():
            raise KeycloakError(f"{name}={value} has no {part}: {_HOW}")
    return Distribution(Path(environment["KEYCLOAK_HOME"]).resolve(), Path(environment["JAVA_HOME"]))


@contextmanager
def workspace(found: Distribution) -> Iterator[Path]:
    """Gives a Keycloak home of its own, with what is only read linked, and removes it at the end."""
    home = Path(tempfile.mkdtemp(prefix="gatehouse-keycloak-"))
    try:
        (home / "bin").mkdir()
        shutil.copy2(found.home / "bin" / "kc.sh", home / "bin" / "kc.sh")
        shutil.copytree(found.home / "conf", home / "conf")
        for name in ("lib", "providers", "themes"):
            (home / name).symlink_to(found.home / name)
        (home / "data" / "import").mkdir(parents=True)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def environment_of(found: Distribution) -> dict[str, str]:
    """Returns the environment that Keycloak gets: its Java, fast to start, and nothing of the caller's."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "JAVA_HOME": str(found.java_home),
        "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD,
    }


def run_command(found: Distribution, home: Path, *arguments: str) -> str:
    """Runs one command of `kc.sh` to its end and returns what it has written.

    Raises:
        KeycloakError: It failed.
    """
    # Its health page would be open to the network, on a port that may be taken.
    loopback = ("--http-management-host=127.0.0.1", "--http-management-port=0")
    done = subprocess.run(
        [home / "bin" / "kc.sh", *arguments, *loopback],
        env=environment_of(found),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise KeycloakError(f"kc.sh {arguments[0]} failed: {_trouble(done.stdout)}")
    return done.stdout


def database(home: Path) -> str:
    """Returns the option that keeps the database in a file of a home, not in memory."""
    return f"--db-url=jdbc:h2:file:{home}/data/h2/keycloak;NON_KEYWORDS=VALUE"


def warnings_of(log: str) -> list[str]:
    """Returns the lines of a log that warn of what Keycloak was given, such as its realm file."""
    lines = [line for line in log.splitlines() if " WARN " in line or " ERROR " in line]
    return [line for line in lines if not any(text in line for text in _HARMLESS)]


@contextmanager
def run_keycloak(found: Distribution, realm_files: Sequence[Path]) -> Iterator[RunningKeycloak]:
    """Runs Keycloak with its database in memory and these realms imported, until the context ends.

    Raises:
        KeycloakError: It does not start.
    """
    with workspace(found) as home, serve(found, home, realm_files) as running:
        yield running


@contextmanager
def serve(
    found: Distribution,
    home: Path,
    realm_files: Sequence[Path],
    *,
    port: int = 0,
    options: Sequence[str] = (),
) -> Iterator[RunningKeycloak]:
    """Runs Keycloak in a home of its own until the context ends.

    Args:
        found: The distribution.
        home: A workspace of it.
        realm_files: Realms to import, unless there are such already.
        port: Port on 127.0.0.1; 0 takes a free one.
        options: Further options.

    Raises:
        KeycloakError: It does not start.
    """
    for file in realm_files:
        shutil.copy2(file, home / "data" / "import" / file.name)
    free, management = _free_ports(2)
    base_url = f"http://127.0.0.1:{port or free}"
    log_file = home / "keycloak.log"
    command = [
        str(home / "bin" / "kc.sh"),
        "start",
        "--optimized",
        "--import-realm",
        "--http-enabled=true",
        "--http-host=127.0.0.1",
        f"--http-port={port or free}",
        f"--http-management-port={management}",
        f"--hostname={base_url}",
        "--cache=local",
        *options,
    ]
    with log_file.open("wb") as log:
        # kc.sh becomes the Java process, so that this id is Keycloak's.
        process = subprocess.Popen(
            command, env=environment_of(found), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    running = RunningKeycloak(base_url, f"http://127.0.0.1:{management}", log_file)
    try:
        _wait_until_ready(process, running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], running: RunningKeycloak) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(f"{running.management_url}/health/ready"):
        text = running.log_file.read_text(encoding="utf-8", errors="replace")
        if process.poll() is not None:
            raise KeycloakError(f"Keycloak ended with {process.returncode}: {_trouble(text)}")
        if time.monotonic() > deadline:
            raise KeycloakError(f"Keycloak was not ready after {READY_SECONDS:g} s: {_trouble(text)}")
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback URL made above
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP's word for ready
    except OSError:
        return False


def _trouble(log: str) -> str:
    """Returns the line of a log that says most, else its last one."""
    lines = [line for line in log.splitlines() if line.strip()] or ["it wrote nothing"]
    return next((line for line in lines if "ERROR" in line), lines[-1])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
