"""docker-compose.yml names nothing that it does not define, also after a service was removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"


def used(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the containers, volumes and networks that a container needs."""
    for name in service.get("depends_on", ()):
        yield "services", name
    for name in service.get("networks", ()):
        yield "networks", name
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        if not source.startswith((".", "/")):
            yield "volumes", source


def test_containers_need_only_what_the_file_defines() -> None:
    file = yaml.safe_load(FILE.read_text())
    needed = {(kind, name) for service in file["services"].values() for kind, name in used(service)}
    assert ("services", "postgres") in needed
    assert [name for kind, name in sorted(needed) if name not in file[kind]] == []
