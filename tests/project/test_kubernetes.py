"""The Kubernetes manifests agree with the services, their settings, and the container image.

`make lint-deploy` compares the same files with the schemas of Kubernetes.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gatehouse.app.serve import MIN_EXPORT_SECONDS
from gatehouse.app.services import SERVICES, settings_model
from gatehouse.rpc import _drain
from gatehouse.runtime import http_endpoint
from gatehouse.runtime.log_queue import CLOSE_SECONDS
from gatehouse.settings import Settings, describe_settings, load_settings
from tests.support.environment import SetEnvironment
from tools import manifests

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy/kubernetes/base"
OVERLAYS = sorted((ROOT / "deploy/kubernetes/overlays").iterdir())
MOUNTS = "/run/gatehouse"
Object = dict[str, Any]

per_service = pytest.mark.parametrize("name", SERVICES)
per_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Object]:
    """Return the objects in a file, by their kinds."""
    return {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}


def manifest(name: str) -> dict[str, Object]:
    return read(BASE / "services" / f"{name}.yaml")


def container_of(workload: Object) -> Object:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


def variables(overlay: Path, name: str) -> dict[str, str]:
    """Return the variables of a container, as kustomize and the kubelet put them together."""
    container = container_of(manifest(name)["Deployment"])
    files = {"gatehouse-settings": "settings.env", f"gatehouse-{name}-settings": f"{name}.env"}
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        file = files[source["configMapRef"]["name"]]
        for folder in (BASE / "services", overlay / "services"):
            found |= manifests.read_settings((folder / file).relative_to(ROOT))
    for each in container["env"]:
        found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], each["value"])
    return found


def mount(workload: Object, secrets: Mapping[str, list[str]], folder: Path) -> None:
    """Write the files of the volumes of a container below `folder`, as Kubernetes does."""
    volumes = {each["name"]: each["secret"] for each in workload["spec"]["template"]["spec"]["volumes"]}
    for each in container_of(workload)["volumeMounts"]:
        assert each["readOnly"]
        assert each["mountPath"].startswith(f"{MOUNTS}/")
        volume = volumes[each["name"]]
        target = folder / each["mountPath"].removeprefix(f"{MOUNTS}/")
        (target / "..2026").mkdir(parents=True)
        (target / "..data").symlink_to("..2026")
        keys = secrets[volume["secretName"]]
        items = {item["key"]: item["path"] for item in volume.get("items", ())} or dict(
            zip(keys, keys, strict=True)
        )
        for key, path in items.items():
            assert key in keys
            (target / "..2026" / path).write_text(f"value of {key}\n")
            (target / path).symlink_to(f"..data/{path}")


def example_secrets() -> dict[str, list[str]]:
    """Return the keys of each Secret: of those to create, and of those that cert-manager creates."""
    text = (ROOT / "deploy/kubernetes/secrets.example.yaml").read_text()
    found = {each["metadata"]["name"]: list(each["stringData"]) for each in yaml.safe_load_all(text)}
    for name in SERVICES:
        certificate = read(ROOT / f"deploy/kubernetes/components/cert-manager/{name}.yaml")["Certificate"]
        found[certificate["spec"]["secretName"]] = ["tls.crt", "tls.key", "ca.crt"]
    return found


def load(
    overlay: Path, name: str, folder: Path, set_environment: SetEnvironment
) -> tuple[Settings, dict[str, str]]:
    """Load the settings of a service in an overlay, with its volumes below `folder`."""
    mount(manifest(name)["Deployment"], example_secrets(), folder)
    given = {key: value.replace(MOUNTS, str(folder)) for key, value in variables(overlay, name).items()}
    set_environment(**given)
    return load_settings(settings_model()), given


def test_generated_files_are_up_to_date() -> None:
    assert list(manifests.problems(manifests.generated())) == []


@per_overlay
@per_service
def test_settings_and_secrets_of_each_service_can_be_loaded(
    name: str, overlay: Path, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    settings, given = load(overlay, name, tmp_path, set_environment)
    section = getattr(settings, name)
    spec = SERVICES[name]
    assert section.port == spec.default_port
    assert section.database_password.get_secret_value() == f"value of gatehouse_{name}__database_password"
    assert "sslmode=verify-full" in section.database_url.get_secret_value()
    assert f"sslrootcert={tmp_path}/database/ca.crt" in section.database_url.get_secret_value()
    # Every secret is a file, which can be rotated, and is used.
    used = {secret.removeprefix(f"gatehouse_{name}__") for secret in manifests.secrets_of(spec)}
    for secret in used - {"api_client_secret"}:
        value: Any = section
        for part in secret.split("__"):
            value = getattr(value, part)
        assert value.get_secret_value() == f"value of gatehouse_{name}__{secret}"
    for issuer in settings.issuers:
        secret_value = issuer.client_secret.get_secret_value() if issuer.client_secret else ""
        assert secret_value == ("value of api_client_secret" if "api_client_secret" in used else "")
    assert [key for key in given if key.endswith(("PASSWORD", "SECRET"))] == []
    assert urlsplit(given[f"GATEHOUSE_{name.upper()}__DATABASE_URL"]).password is None
    assert [issuer for issuer in json.loads(given["GATEHOUSE_ISSUERS"]) if "client_secret" in issuer] == []


@per_overlay
@per_service
def test_ports_probes_and_times_of_each_service(
    name: str, overlay: Path, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    settings, _ = load(overlay, name, tmp_path, set_environment)
    objects = manifest(name)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    container = container_of(objects["Deployment"])
    assert container["args"] == ["serve", name]

    ports = {"grpc": SERVICES[name].default_port, "http": settings.telemetry.metrics_port}
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == ports
    assert {each["targetPort"]: each["port"] for each in objects["Service"]["spec"]["ports"]} == ports
    assert objects["Service"]["spec"]["clusterIP"] == "None"
    allowed = {each["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for each in rule["ports"]}
    assert allowed == set(ports)
    # The kubelet and other pods do not come from loopback.
    assert (settings.server.host, settings.telemetry.metrics_host) == ("0.0.0.0", "0.0.0.0")

    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert path in {http_endpoint.LIVE, http_endpoint.READY}
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        # Otherwise the reason of a failure is lost.
        assert container[probe]["timeoutSeconds"] > http_endpoint._LOOP_SECONDS

    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = _drain._MAX_SECONDS_IF_LATE + settings.server.drain_seconds + MIN_EXPORT_SECONDS + CLOSE_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= stop + needed
    # The pod is not ready before clients have forgotten it.
    assert (
        stop >= container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
    )


@per_overlay
def test_services_find_each_other(overlay: Path) -> None:
    addresses = {f"dns:///gatehouse-{name}:{spec.default_port}" for name, spec in SERVICES.items()}
    for name in SERVICES:
        given = variables(overlay, name)
        assert {value for key, value in given.items() if key.endswith("_TARGET")} <= addresses
        certificate = read(ROOT / f"deploy/kubernetes/components/cert-manager/{name}.yaml")["Certificate"]
        assert f"gatehouse-{name}" in certificate["spec"]["dnsNames"]
        assert manifest(name)["Service"]["metadata"]["name"] == f"gatehouse-{name}"


@per_overlay
def test_migrations_get_every_password(
    overlay: Path, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    job = read(BASE / "migration/job.yaml")["Job"]
    mount(job, example_secrets(), tmp_path)
    given: dict[str, str] = {}
    for file in (BASE / "migration/settings.env", overlay / "migrate.env"):
        given |= manifests.read_settings(file.relative_to(ROOT))
    set_environment(**{key: value.replace(MOUNTS, str(tmp_path)) for key, value in given.items()})
    settings = load_settings(settings_model())
    assert container_of(job)["args"] == ["migrate"]
    assert settings.database.migrate_password is not None
    assert f"sslrootcert={tmp_path}/database/ca.crt" in settings.database.migrate_url.get_secret_value()
    assert all(getattr(settings, name).database_password for name in SERVICES)


@pytest.mark.parametrize("name", [*SERVICES, "migrate"])
def test_pods_run_as_the_user_of_the_image_under_the_restricted_standard(name: str) -> None:
    job = read(BASE / "migration/job.yaml")["Job"]
    workload = job if name == "migrate" else manifest(name)["Deployment"]
    pod = workload["spec"]["template"]["spec"]
    uid = int(manifests.container_user())
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container_of(workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert all(each["secret"]["defaultMode"] == 0o440 for each in pod["volumes"])
    assert 'ENTRYPOINT ["gatehouse"]' in (ROOT / "Dockerfile").read_text()
    namespace = read(BASE / "namespace.yaml")["Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@per_service
def test_selectors_match_the_labels_of_the_pods(name: str) -> None:
    objects = manifest(name)
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    spread = objects["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors += [each["labelSelector"]["matchLabels"] for each in spread]
    assert selectors == [labels] * len(selectors)
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == objects["Deployment"]["metadata"]["name"]
    account = objects["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == objects["ServiceAccount"]["metadata"]["name"]


def test_prometheus_operator_scrapes_the_port_of_the_metrics() -> None:
    monitor = yaml.safe_load(
        (ROOT / "deploy/kubernetes/components/prometheus-operator/service-monitor.yaml").read_text()
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    added = [
        label
        for folder in (BASE, BASE / "services")
        for pair in yaml.safe_load((folder / "kustomization.yaml").read_text())["labels"]
        for label in pair["pairs"].items()
    ]
    assert dict(added) == monitor["spec"]["selector"]["matchLabels"]


def test_certificates_are_renewed_long_before_the_alert() -> None:
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
    days = max(int(found) for found in re.findall(r"expires_in_days < (\d+)", rules))
    for name in SERVICES:
        spec = read(ROOT / f"deploy/kubernetes/components/cert-manager/{name}.yaml")["Certificate"]["spec"]
        assert int(spec["renewBefore"].removesuffix("h")) / 24 >= 2 * days


def test_image_of_production_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (image,) = yaml.safe_load(
        (ROOT / "deploy/kubernetes/overlays/production/kustomization.yaml").read_text()
    )["images"]
    assert image["newTag"] == project["version"]
    workload_images = {container_of(manifest(name)["Deployment"])["image"] for name in SERVICES}
    assert workload_images == {image["name"]}


def test_manifests_of_a_service_that_was_removed_are_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "deploy/kubernetes/base/services/gone.yaml").write_text("# Generated by `make manifests`.\n")
    (tmp_path / "deploy/kubernetes/overlays/production/services/gone.env").touch()
    found = list(manifests.problems(manifests.generated(), tmp_path))
    assert [problem.partition(": ")[0] for problem in found] == [
        "deploy/kubernetes/base/services/gone.yaml",
        "deploy/kubernetes/overlays/production/services/gone.env",
    ]
    assert all("service that does not exist" in problem for problem in found)


def test_commands_of_the_page_name_files_objects_and_labels_that_exist() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    commands = re.findall(r"^ *kubectl (.+?)(?: *#.*)?$", page, re.MULTILINE)
    assert len(commands) > 4
    text = "\n".join(file.read_text() for file in (ROOT / "deploy/kubernetes").rglob("*.yaml"))
    for command in commands:
        for path in re.findall(r"deploy/\S+", command):
            assert (ROOT / path).exists(), path
        for label, value in re.findall(r"-l (\S+)=(\S+)", command):
            assert f"{label}: {value}\n" in text, label
        for kind, name in re.findall(r"\b(job)[ /](\S+)", command):
            assert f"kind: {kind.capitalize()}\nmetadata:\n  name: {name}\n" in text, name
    variables = {row.name for row in describe_settings(settings_model())}
    assert set(re.findall(r"GATEHOUSE_[A-Z]+__[A-Z_]+", page)) <= variables
