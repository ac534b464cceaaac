"""Environment variables for one test."""

from __future__ import annotations

import json
import os
from typing import Protocol

import pytest

# A proxy where nothing listens, by every variable that a library may read.
PROXIES = {
    name: "http://127.0.0.1:9"
    for lower in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    for name in (lower, lower.upper())
}


class SetEnvironment(Protocol):
    """Sets environment variables; values other than strings become JSON."""

    def __call__(self, **variables: object) -> None:
        """Set the variables until the test ends."""
        ...


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """Set variables in an environment that has none of Gatehouse's."""
    for name in os.environ:
        if name.upper().startswith("GATEHOUSE_"):
            monkeypatch.delenv(name)

    def set_variables(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))

    return set_variables
