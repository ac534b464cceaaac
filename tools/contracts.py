"""Import contract for services: each is a package below `gatehouse` with a module `spec`."""

from __future__ import annotations

import re

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

ROOT = "gatehouse"
# The packages above the services, which they may not import.
ABOVE = ("app", "cli")


class ServicesContract(Contract):
    """No package imports a service, except for its generated stubs; a service imports nothing above it."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, FBT001 - the base class's signature
        """Return the imports that break the contract."""
        services = {
            module.removesuffix(".spec")
            for module in graph.modules
            if re.fullmatch(rf"{ROOT}\.\w+\.spec", module)
        } - {f"{ROOT}.runtime"}
        broken = []
        for importer in graph.modules:
            home = ".".join(importer.split(".")[:2])
            for imported in graph.find_modules_directly_imported_by(importer):
                target = ".".join(imported.split(".")[:2])
                stubs = imported.startswith(f"{target}.v1")
                into_service = target in services and home != target and not stubs
                upwards = home in services and target in {f"{ROOT}.{name}" for name in ABOVE}
                if into_service or upwards:
                    broken.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not broken, metadata={"broken": sorted(broken)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the imports that break the contract."""
        for line in check.metadata["broken"]:
            output.print_error(line)
