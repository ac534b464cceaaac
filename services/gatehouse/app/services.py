"""The specs of the services, and what is computed from all of them; the list is in `packages.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from gatehouse.app.packages import PACKAGES
from gatehouse.runtime import ServiceSpec
from gatehouse.settings import ConfigurationError, Settings, setting_values

if TYPE_CHECKING:
    from gatehouse.storage.branches import MigrationBranch


def _load() -> Iterator[tuple[str, ServiceSpec[Any]]]:
    for package in PACKAGES:
        spec: ServiceSpec[Any] = import_module(f"{package}.spec").SPEC
        yield spec.name, spec


SERVICES: Mapping[str, ServiceSpec[Any]] = dict(_load())
"""Every service by its name."""


def find_services(names: Sequence[str]) -> list[ServiceSpec[Any]]:
    """Return the services called `names`, without duplicates.

    Raises:
        ConfigurationError: There is no such service.
    """
    for name in names:
        if name not in SERVICES:
            raise ConfigurationError(f"{name}: unknown service; use one of {', '.join(SERVICES)}")
    return [SERVICES[name] for name in dict.fromkeys(names)]


def configured_services(settings: Settings) -> list[ServiceSpec[Any]]:
    """Return the services that have settings of their own, all services if none has."""
    names = {row.name.partition("__")[0] for row in setting_values(settings) if row.origin != "default"}
    configured = [spec for name, spec in SERVICES.items() if f"GATEHOUSE_{name.upper()}" in names]
    return configured or list(SERVICES.values())


def migration_branches(role_prefix: str = "gatehouse") -> list[MigrationBranch]:
    """Return the migrations of all services, for login roles with this prefix."""
    from gatehouse.storage.branches import MigrationBranch  # noqa: PLC0415 - other commands need no SQLAlchemy

    return [
        MigrationBranch(spec.name, spec.schema, spec.login_role(role_prefix)) for spec in SERVICES.values()
    ]


@cache
def settings_model() -> type[Settings]:
    """Return the settings class: the shared sections and one section for each service."""
    sections: dict[str, Any] = {}
    for name, spec in SERVICES.items():
        section = spec.settings_section()
        sections[name] = (section, Field(default_factory=section))
    model: type[Settings] = create_model("Settings", __base__=Settings, **sections)
    return model
