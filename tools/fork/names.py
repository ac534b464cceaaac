"""The spellings of a project's name, and which names can be used."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

OLD = "gatehouse"
# A login role, `<name>_<service>`, has at most 63 bytes in PostgreSQL, and a DNS label at most 63 characters.
# A service has at most 31 (tools/new_service.py).
MAX_LENGTH = 31
# PostgreSQL keeps roles that begin with pg_ for itself, and OTEL_ is the prefix of OpenTelemetry.
_NAME = re.compile(r"(?=..)(?!pg-|otel-)[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIXES = ("", "_testbed", "_console", "_migrations")


@dataclass(frozen=True, slots=True)
class Names:
    """One name in every spelling.

    Args:
        dashed: Such as `acme-billing`.
    """

    dashed: str

    @property
    def package(self) -> str:
        """Such as `acme_billing`."""
        return self.dashed.replace("-", "_")

    @property
    def variable(self) -> str:
        """Such as `ACME_BILLING`."""
        return self.package.upper()

    @property
    def class_name(self) -> str:
        """Such as `AcmeBilling`."""
        return self.title.replace(" ", "")

    @property
    def title(self) -> str:
        """Such as `Acme Billing`."""
        return " ".join(word.capitalize() for word in self.dashed.split("-"))


def problem_of(name: str, root: Path, services: Collection[str]) -> str:
    """Return why a project cannot have this name, "" if it can.

    Args:
        name: Such as `acme-billing`.
        root: This repository.
        services: Names of its services.
    """
    return next(_problems(name, root, services), "")


def _problems(name: str, root: Path, services: Collection[str]) -> Iterator[str]:
    if not name:
        yield "a name is missing; use NAME=acme-billing"
    if not _NAME.fullmatch(name):
        yield "use two or more lower-case letters, digits and single dashes, and begin with a letter"
    if len(name) > MAX_LENGTH:
        length = f"{len(name)} characters; use at most {MAX_LENGTH}"
        yield f"{length}, so that login roles of PostgreSQL and DNS labels made from it have at most 63"
    if name == OLD:
        yield "this project has this name; choose another one"
    for reason, words in _reserved(services).items():
        if name in words:
            yield f"{reason}; choose another one"
    modules = {f"{Names(name).package}{suffix}" for suffix in _SUFFIXES} & _taken_modules(root)
    if modules:
        yield f"a Python package is called {min(modules)}; choose another name"
    if re.search(rf"^  {re.escape(name)}:$", (root / "docker-compose.yml").read_text(), re.MULTILINE):
        yield "a container has this name; choose another one"


def _reserved(services: Collection[str]) -> dict[str, Collection[str]]:
    """Return words that cannot be a name, by the reason."""
    found = tomllib.loads((Path(__file__).resolve().parent / "reserved.toml").read_text())
    return {reason: words.split() for reason, words in found.items()} | {
        "a keyword of Python": (*keyword.kwlist, *keyword.softkwlist),
        "a service has this name": services,
    }


def _taken_modules(root: Path) -> set[str]:
    """Return the names of modules that a package of this name would hide, or that would hide it."""
    ignored = {line.strip("/*") for line in (root / ".gitignore").read_text().splitlines()}
    own = {path.stem for folder in (root, root / "services") for path in folder.iterdir()}
    installed = set(importlib.metadata.packages_distributions())
    # Python has a package `test` that is not in its list.
    return set(sys.stdlib_module_names) | {"test"} | installed | own | ignored
