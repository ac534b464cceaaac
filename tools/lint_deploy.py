"""Check deploy/ with the tools that read it: `make lint-deploy`. Needs Go."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools import manifests
from tools.go_tools import find_or_install

# <part kubernetes>
from tools.kubernetes_schemas import KUBERNETES, schema_folder

# </part kubernetes>

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
# <part kubernetes>
PAGE = ROOT / "docs/kubernetes.md"
# No registry has the schemas of Keycloak's operator.
WITHOUT_SCHEMA = ("Keycloak", "KeycloakRealmImport")
COMPONENT = "app.kubernetes.io/component"
_PART_OF = "app.kubernetes.io/part-of"
# </part kubernetes>


def run(*command: str | Path, given: str | None = None) -> str:
    """Run a command and return what it writes.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shown = " ".join(Path(part).name for part in map(str, command[:4]))
        sys.exit(f"lint-deploy: {shown} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


# <part kubernetes>
def validate(text: str) -> None:
    """Compare manifests with the schemas of Kubernetes and of the operators."""
    location = f"{schema_folder()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    version = KUBERNETES[1].removeprefix("v")
    kubeconform = find_or_install("kubeconform")
    options = ("-strict", "-kubernetes-version", version, "-skip", ",".join(WITHOUT_SCHEMA))
    run(kubeconform, *options, "-schema-location", location, given=text)


def reference_problems(objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what kustomize leaves to the cluster: names of objects that are not among the rendered ones."""
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in {"Deployment", "Job"}:
            template = each["spec"]["template"]
            labels, spec = template["metadata"]["labels"], template["spec"]
            if (
                labels.get(_PART_OF) != "gatehouse"
                or labels.get(COMPONENT) != each["metadata"]["labels"][COMPONENT]
            ):
                yield f"{name}: its pods lack the labels {_PART_OF} and {COMPONENT}"
            account = spec.get("serviceAccountName")
            if account and ("ServiceAccount", account) not in names:
                yield f"{name}: there is no ServiceAccount {account}"
            for container in spec["containers"]:
                for source in container["envFrom"]:
                    if ("ConfigMap", source["configMapRef"]["name"]) not in names:
                        yield f"{name}: there is no ConfigMap {source['configMapRef']['name']}"
        if each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]
            if (target["kind"], target["name"]) not in names:
                yield f"{name}: there is no {target['kind']} {target['name']}"


# </part kubernetes>
def main() -> int:
    """Check everything, and print the first problem."""
    outdated = list(manifests.problems(manifests.generated()))
    if outdated:
        sys.exit("\n".join(outdated))
    # <part kubernetes>
    for overlay in sorted((ROOT / manifests.KUBERNETES).glob("overlays/*")):
        text = run(find_or_install("kustomize"), "build", overlay)
        validate(text)
        found = list(reference_problems([*yaml.safe_load_all(text)]))
        if found:
            sys.exit("\n".join(f"{overlay.relative_to(ROOT)}: {problem}" for problem in found))
    validate((ROOT / manifests.KUBERNETES / "secrets.example.yaml").read_text())
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        validate(block)
    # </part kubernetes>

    promtool = find_or_install("promtool")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yml")
    run(promtool, "test", "rules", PROMETHEUS / "rules.test.yml")
    with tempfile.TemporaryDirectory() as folder:  # as they are mounted in the container
        for file in (ROOT / "compose/prometheus.yml", PROMETHEUS / "rules.yml"):
            shutil.copy(file, folder)
        run(promtool, "check", "config", Path(folder) / "prometheus.yml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
