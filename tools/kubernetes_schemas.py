"""JSON schemas for kubeconform, made of what the Go module proxy has.

The module `k8s.io/kubernetes` describes the kinds of Kubernetes, and the modules of cert-manager and of the
Prometheus Operator have their CustomResourceDefinitions. A field that is not in a schema is an error.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.go_tools import cache, download_module

# The oldest release that is maintained: what is valid there is valid in all later ones.
KUBERNETES = ("k8s.io/kubernetes", "v1.35.4")
# The CustomResourceDefinitions that are used, by module and version.
CUSTOM = {
    ("github.com/cert-manager/cert-manager", "v1.21.2"): (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    ("github.com/cloudnative-pg/cloudnative-pg", "v1.27.1"): (
        "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
    ),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0"): (
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}
_DEFINITIONS = "#/definitions/"
Schema = dict[str, Any]


def schema_folder() -> Path:
    """Return the folder with the schemas; make it if it does not exist."""
    versions = "-".join(version for _, version in (KUBERNETES, *CUSTOM))
    folder = cache() / f"kubernetes-schemas-{versions}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, schema in _schemas():
            (part / f"{name}.json").write_text(json.dumps(schema))
        part.rename(folder)
    return folder


def _schemas() -> Iterator[tuple[str, Schema]]:
    """Yield the schema of each kind, with the name of its file."""
    description = download_module(*KUBERNETES) / "api/openapi-spec/swagger.json"
    definitions = json.loads(description.read_text())["definitions"]
    for definition in definitions.values():
        _close(definition)
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            needed = _needed(definitions, name)
            yield _file_name(**kind), {"$ref": f"{_DEFINITIONS}{name}", "definitions": needed}
    for (module, version), files in CUSTOM.items():
        for file in files:
            spec = yaml.safe_load((download_module(module, version) / file).read_text())["spec"]
            for each in spec["versions"]:
                schema = each["schema"]["openAPIV3Schema"]
                _close(schema)
                yield _file_name(spec["group"], each["name"], spec["names"]["kind"]), schema


def _file_name(group: str, version: str, kind: str) -> str:
    """Return a name that kubeconform finds with `{{.ResourceKind}}{{.KindSuffix}}`."""
    return "-".join(part.lower() for part in (kind, group.partition(".")[0], version) if part)


def _needed(definitions: Mapping[str, Schema], name: str) -> dict[str, Schema]:
    """Return a definition and those that it refers to."""
    found: dict[str, Schema] = {}
    todo = [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = definitions[name]
            todo += _references(definitions[name])
    return found


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.removeprefix(_DEFINITIONS)
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _close(schema: Schema) -> None:
    """Forbid fields that are not in a schema, and allow numbers where Kubernetes does."""
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        schema.pop("format", None)
        schema["type"] = ["integer", "string"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        schema["additionalProperties"] = False
        if "kind" in schema["properties"] and "metadata" in schema["properties"]:
            schema["properties"].setdefault("apiVersion", {"type": "string"})
    for value in schema.get("properties", {}).values():
        _close(value)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _close(schema[key])
