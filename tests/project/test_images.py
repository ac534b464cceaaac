"""Images have their tags in `.env`, and everything that builds them builds the same ones."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile", "compose/keycloak/Dockerfile")
STAGE = re.compile(r"^FROM (\S+)(?: AS (\S+))?$", re.MULTILINE)


def pins() -> dict[str, str]:
    """Return the version of each image, by its variable in `.env`."""
    return dict(re.findall(r"^(\w+_VERSION)=(.+)$", (ROOT / ".env").read_text(), re.MULTILINE))


def images() -> dict[str, str]:
    """Return the name of each image from elsewhere, by the variable of its version."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = [service.get("image", "") for service in services.values()]
    for file in DOCKERFILES:
        named += [name for name, _ in STAGE.findall((ROOT / file).read_text())]
    found = {}
    for image in named:
        match = re.fullmatch(r"([\w./-]+):\$\{(\w+_VERSION)\}", image)
        if match:
            found[match[2]] = match[1]
        else:  # one of our own, or an earlier stage
            assert "PROJECT_NAME" in image or re.fullmatch(r"[\w-]*", image), image
    return found


def built_stages() -> set[str]:
    """Return the targets of the Dockerfile that are images: no other stage is built on them."""
    stages = STAGE.findall((ROOT / "Dockerfile").read_text())
    copied = set(re.findall(r"--from=(\S+)", (ROOT / "Dockerfile").read_text()))
    return {name for _, name in stages} - {parent for parent, _ in stages} - copied


@pytest.mark.parametrize("file", DOCKERFILES)
def test_defaults_of_a_dockerfile_are_the_tags_in_env(file: str) -> None:
    defaults = dict(re.findall(r"^ARG (\w+_VERSION)=(.+)$", (ROOT / file).read_text(), re.MULTILINE))
    assert defaults
    assert defaults.items() <= pins().items()


def test_dependency_bot_finds_every_image_with_its_tag_and_adds_digests() -> None:
    settings = json.loads((ROOT / ".github/renovate.json").read_text())
    assert any(rule.get("pinDigests") for rule in settings["packageRules"])
    found = {}
    for manager in settings["customManagers"]:
        (pattern,) = manager["matchStrings"]
        pattern = pattern.replace("(?<", "(?P<")
        digest = f"@sha256:{'a' * 64}"
        for name, version in pins().items():
            match = re.search(pattern, f"{name}={version.partition('@')[0]}{digest}\n")
            if match:
                assert match[0] == f"{name}={version.partition('@')[0]}{digest}"
                assert manager["autoReplaceStringTemplate"].startswith(f"{name}={{{{{{newValue}}}}}}")
                found[name] = manager["depNameTemplate"]
        for file in (".env", *DOCKERFILES):
            patterns = [pattern.strip("/") for pattern in manager["managerFilePatterns"]]
            assert any(re.search(each, file) for each in patterns), file
    assert found == images()
    assert found.keys() == pins().keys()


def test_bake_and_the_workflow_build_every_image_of_the_dockerfile() -> None:
    bake = (ROOT / "docker-bake.hcl").read_text()
    lists = re.findall(r'^ +(?:targets|stage) += \[("[^\]]*")\]$', bake, re.MULTILINE)
    assert [set(re.findall(r'"(\w+)"', each)) for each in lists] == [built_stages()] * 2
    workflow = yaml.safe_load((ROOT / ".github/workflows/image.yml").read_text())
    assert set(workflow["jobs"]["build"]["strategy"]["matrix"]["target"]) == built_stages()
    # Without a name, bake reads docker-compose.yml as well, whose services have the same names.
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    files = [step["with"].get("files") for step in steps if "bake-action" in step.get("uses", "")]
    assert files == ["docker-bake.hcl"] * 2
    makefile = (ROOT / "Makefile").read_text()
    assert makefile.count("buildx bake") == makefile.count("buildx bake --file docker-bake.hcl") == 1


def test_image_has_the_version_of_the_project_by_default() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "Dockerfile").read_text()
    bake = (ROOT / "docker-bake.hcl").read_text()
    assert f'"org.opencontainers.image.licenses" = "{project["license"]}"' in bake
