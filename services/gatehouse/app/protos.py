"""The protos of the services with all that they import, for clients without reflection."""

from __future__ import annotations

from pathlib import Path

from gatehouse.settings import ConfigurationError


def protos_folder() -> Path:
    """Return the folder of the protos: beside `services/` in a checkout, beside the package in a wheel.

    Raises:
        ConfigurationError: It is missing.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "protos", package.parent / "gatehouse_protos"):
        if (folder / "buf").is_dir():
            return folder
    raise ConfigurationError(f"the protos are missing beside {package}; reinstall Gatehouse")
